"""What damaged requests have in common: edits, limits, and how many cases are tried at a time."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from server.settings import load_settings

EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=6
)
LIMITS = load_settings(
    max_body_bytes=100_000,
    max_images=2,
    max_text_characters=5_000,
    profile_s=0.1,
    cache=os.devnull,
)
CHUNK = 5_000
"""Cases after which hypothesis, which remembers them all, starts anew."""


def edited(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Each edit puts new bytes for a number of old ones, at a share of the length."""
    for share, num_old, new in edits:
        start = int(share * len(content))
        content = content[:start] + new + content[start + num_old :]
    return content


def patient(num_cases: int) -> settings:
    """New cases each time, however slow."""
    return settings(
        max_examples=num_cases, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
