"""What a client takes, by a header such as Accept or Accept-Encoding. Pure."""

import re

REFUSED = re.compile(r"q=0(\.0*)?")
"""The weight of what a client does not take."""


def accepted(header: str) -> list[str]:
    """The names in a header of choices, in small letters, without those that are refused."""
    choices = (choice.split(";") for choice in header.lower().replace(" ", "").split(","))
    return [name for name, *options in choices if not any(map(REFUSED.fullmatch, options))]
