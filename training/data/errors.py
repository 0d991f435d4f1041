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


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else ""
    return ", ".join(every[:MAX_NAMED]) + more
