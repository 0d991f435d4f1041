"""The time that newcomers lacked: jobs with an answer give it back by going no deeper. Pure."""

from dataclasses import dataclass
from math import inf

MAX_DEBT_S = 0.1
"""The most that is owed, and how long it is owed: by then load is told by newer refusals."""


@dataclass(slots=True)
class Debt:
    """Seconds of work, owed since the latest refusal."""

    _seconds: float = 0.0
    _since: float = -inf

    def lack(self, seconds: float, now: float) -> None:
        """A newcomer was refused for want of so much time."""
        owed_s = self._seconds if self.is_owed(now) else 0.0
        self._seconds, self._since = min(owed_s + seconds, MAX_DEBT_S), now

    def repay(self, seconds: float) -> None:
        """A job did without so much work."""
        self._seconds = max(0.0, self._seconds - seconds)

    def is_owed(self, now: float) -> bool:
        return self._seconds > 0 and now < self._since + MAX_DEBT_S
