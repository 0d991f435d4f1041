"""What the data room refuses."""

from collections.abc import Iterable

from models.bundle.errors import UserError

MAX_NAMED = 5


class DataError(UserError):
    """The data set cannot be used; the message says why, in one sentence."""


class NoSuchSplit(DataError):
    """The data set has no split of this name."""


class Undecodable(DataError):
    """An image that cannot be opened or decoded; the message names it."""


def reason(error: BaseException) -> str:
    """The first line of the error, or of what caused it; its type's name where it says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else ""
    return ", ".join(every[:MAX_NAMED]) + more
