"""Progress of long work: a bar on a terminal, a plain line a minute anywhere else."""

import sys
from time import monotonic
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_INTERVAL_S = 60.0


class Progress:
    """Counts steps up to `total`; shows nothing where `is_shown` is false."""

    def __init__(
        self, total: int, title: str, unit: str, *, initial: int = 0, is_shown: bool = True
    ) -> None:
        self.total, self.title, self.unit, self.done = total, title, unit, initial
        self.initial, self.is_shown, self.note = initial, is_shown, ""
        self.started = self.told = monotonic()
        is_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            desc=title,
            unit=unit,
            initial=initial,
            mininterval=1,
            disable=not (is_shown and is_terminal),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.close()

    def update(self, number: int = 1) -> None:
        self.done += number
        self.bar.update(number)
        if self.bar.disable and self.is_shown and monotonic() - self.told >= LINE_INTERVAL_S:
            self.told = monotonic()
            print(self.line(self.told - self.started), file=sys.stderr, flush=True)

    def describe(self, note: str) -> None:
        """Sets the text beside the count."""
        self.note = note
        self.bar.set_postfix_str(note)

    def line(self, elapsed_s: float) -> str:
        """Count, rate and time left, as a log line has them."""
        rate = (self.done - self.initial) / elapsed_s
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        note = f", {self.note}" if self.note else ""
        count = f"{self.title}: {self.done} of {self.total} {self.unit}s"
        return f"{count}, {rate:.3g} a second{left}{note}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
