"""The cores that a process may use: those of its affinity, or fewer by a quota of its cgroup."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def num_cores() -> int:
    """At least one. A quota counts in whole cores: a process that exceeds it stops for a while."""
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas()])))


def quotas(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[float]:
    """The CPU quotas, in cores, of this process's cgroup and of those above it.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and, for version 1,
    https://docs.kernel.org/scheduler/sched-bwc.html
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from quotas_above(cgroups, path, quota_v2)
            elif "cpu" in controllers.split(","):
                for mount in {controllers, "cpu"}:
                    yield from quotas_above(cgroups / mount, path, quota_v1)


def quotas_above(mount: Path, path: str, quota: Callable[[Path], float]) -> Iterator[float]:
    """Containers see their own cgroup as the root, and the path of the host may not be there."""
    place = mount / path.lstrip("/")
    for directory in (place, *place.parents):
        if not directory.is_relative_to(mount):
            return
        with suppress(OSError, ValueError):
            yield quota(directory)


def quota_v2(directory: Path) -> float:
    """Raises ValueError where there is none: `max 100000`."""
    quota, period = (directory / "cpu.max").read_text().split()
    return int(quota) / int(period)


def quota_v1(directory: Path) -> float:
    """Raises ValueError where there is none: -1."""
    quota = int((directory / "cpu.cfs_quota_us").read_text())
    if quota <= 0:
        raise ValueError("no quota")
    return quota / int((directory / "cpu.cfs_period_us").read_text())
