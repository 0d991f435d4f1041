"""Quotas as both versions of cgroups state them, in directories made for the test."""

from pathlib import Path

import pytest

from models.bundle.cores import num_cores, quotas


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path = path.with_name(path.name.replace("cpu_", "cpu."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"cpu_max": "150000 100000\n"}, [1.5]),
        ("0::/", {"cpu_max": "max 100000\n"}, []),
        ("0::/pod/box", {"pod__cpu_max": "200000 100000", "pod__box__cpu_max": "max 1"}, [2.0]),
        ("0::/pod/box", {"cpu_max": "50000 100000"}, [0.5]),
        (
            "5:cpu,cpuacct:/box",
            {"cpu,cpuacct__cpu_cfs_quota_us": "300000", "cpu,cpuacct__cpu_cfs_period_us": "100000"},
            [3.0],
        ),
        ("5:cpu:/", {"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, []),
        ("4:memory:/", {"cpu__cpu_cfs_quota_us": "1", "cpu__cpu_cfs_period_us": "1"}, []),
        ("0::/", {}, []),
    ],
)
def test_quotas_of_both_versions(
    tmp_path: Path, membership: str, files: dict[str, str], expected: list[float]
) -> None:
    said = tmp_path / "cgroup"
    said.write_text(membership + "\n")
    write(tmp_path / "fs", **files)
    assert list(quotas(tmp_path / "fs", said)) == expected


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.9, 1), (2.0, 2), (1000.0, 2)])
def test_a_quota_counts_in_whole_cores(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int
) -> None:
    monkeypatch.setattr("models.bundle.cores.quotas", lambda: [quota])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert num_cores() == cores
