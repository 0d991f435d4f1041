"""Headers that list what a client takes: Accept and Accept-Encoding. Pure."""

import re

REFUSED = re.compile(r"q=0(\.0*)?")
"""Weight 0: the client does not take it."""


def accepted(header: str) -> list[str]:
    """The names that a header lists, in lower case, without those of weight 0."""
    choices = (choice.split(";") for choice in header.lower().replace(" ", "").split(","))
    return [name for name, *options in choices if not any(map(REFUSED.fullmatch, options))]
