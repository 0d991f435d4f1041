"""Defaults that are known without loading onnxruntime."""

from pathlib import Path

from platformdirs import user_cache_path

CPU = "CPUExecutionProvider"
MAX_S = 10.0
"""Seconds to measure a bundle, about."""
WATTS_PER_CORE = 8.0
"""Active power of one server core, a typical value: the estimate where no meter is read."""
SHORT_STEP_S = 0.009
"""A step, one segment and its head, that takes less for one row runs on the server's event loop."""


def cache_directory() -> Path:
    """Where caches live unless a setting says otherwise: on Linux `~/.cache/offramp`."""
    return user_cache_path("offramp", appauthor=False)
