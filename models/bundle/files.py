"""How many files a process may open: each connection is one."""

import resource
from contextlib import suppress


def allow_files() -> None:
    """Lets this process and its children open as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # some systems allow fewer than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
