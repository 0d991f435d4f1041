"""The wheel serves without a checkout: built, unpacked and started in an empty directory."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from benchmarks.process import ROOT, free_port, started

SOURCES = (
    "pyproject.toml",
    "README.md",
    "offramp.py",
    "commands",
    "load",
    "models",
    "offramp_client",
    "server",
    "training",
)
LARGEST_MB = 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, without network."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = [
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(out),
    ]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_it_holds_every_room_and_one_shipped_bundle(wheel: Path) -> None:
    names = [name.split("/") for name in zipfile.ZipFile(wheel).namelist()]
    rooms = {first for first, *_ in names if not first.startswith("offramp-")}
    assert rooms == {
        "commands",
        "load",
        "models",
        "offramp.py",
        "offramp_client",
        "server",
        "training",
    }
    bundles = {tuple(rest[2:4]) for rest in names if rest[:2] == ["models", "zoo"]}
    assert bundles == {("cifar100-msdnet", "7")}
    assert wheel.stat().st_size < LARGEST_MB * 1e6


def test_it_serves_in_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    site, here, port = tmp_path / "site", tmp_path / "here", free_port()
    zipfile.ZipFile(wheel).extractall(site)
    here.mkdir()
    environment = {
        "PYTHONPATH": str(site), "OFFRAMP_CACHE": os.devnull, "OFFRAMP_PROFILE_S": "0.2",
        "OFFRAMP_PROCESSES": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "offramp", "serve", "--port", str(port)]
    with started(command, port, environment, directory=here) as server:
        image = (ROOT / "examples/otter.png").read_bytes()
        headers = {"content-type": "image/png"}
        answer = httpx.post(f"{server.url}/v1/classify", content=image, headers=headers).json()
    assert (answer["model"], answer["version"], answer["label"]) == ("cifar100-msdnet", 7, "otter")
    assert list(here.iterdir()) == []
