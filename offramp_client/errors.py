"""What the server refuses."""

from typing import Any, Self

import httpx


class OfframpError(Exception):
    """The server's problem document; `errors` names the fields at fault.

    `retry_after_s` is there where the server has no room now.
    """

    def __init__(self, problem: dict[str, Any], retry_after_s: float | None = None) -> None:
        super().__init__(f"{problem['status']} {problem['title']}: {problem['detail']}")
        self._problem = problem
        self.status: int = problem["status"]
        self.detail: str = problem["detail"]
        self.errors: list[dict[str, str]] = problem.get("errors", [])
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Any], float | None]]:
        """Processes hand errors on pickled."""
        return type(self), (self._problem, self.retry_after_s)


def check(response: httpx.Response) -> None:
    """Raises OfframpError unless the response, whose body has been read, is an answer."""
    if response.is_success:
        return
    retry_after = response.headers.get("retry-after", "")
    # what comes from something before the server may be no problem document, or lack members
    problem: dict[str, Any] = {
        "status": response.status_code,
        "title": response.reason_phrase,
        "detail": response.text,
    }
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem |= response.json()
    is_date = not retry_after.isdecimal()
    raise OfframpError(problem, None if is_date else float(retry_after))
