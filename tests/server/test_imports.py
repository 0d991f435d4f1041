"""Imports in the server go one way, and the engine shares nothing between threads."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from benchmarks.process import ROOT

ORDER: tuple[tuple[str, ...], ...] = (
    ("errors", "settings"),
    ("gate", "options"),
    ("engine",),
    ("parameters", "cache", "running"),
    ("telemetry", "planning"),
    ("zoo",),
    ("service",),
    ("caching",),
    ("http",),
    ("v1", "v2", "page"),
    ("grpc",),
    ("app",),
    ("processes",),
    ("cli",),
)
"""The server's rooms, bottom to top; rooms of one row know nothing of each other."""
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FILES = [path for path in sorted((ROOT / "server").rglob("*.py")) if path.stem != "__init__"]
ENGINE = [path for path in FILES if path.parent.name == "engine"]
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Barrier"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports: of `from package import module`, the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, "imports are absolute"
            whole = {f"{node.module}.{name.name}" for name in node.names}
            yield from (whole & MODULES.keys()) or {node.module}


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    own = room(module_of(path))
    others = {room(name) for name in imported(path) if name.startswith("server.")} - {own}
    assert [other for other in others if LEVELS[other] >= LEVELS[own]] == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_server_imports_no_other_room_but_the_bundle(path: Path) -> None:
    rooms = ("models", "training", "offramp_client", "benchmarks", "deploy", "tests")
    others = [name for name in imported(path) if name.split(".")[0] in rooms]
    assert [name for name in others if not name.startswith("models.bundle.")] == []


@pytest.mark.parametrize("path", ENGINE, ids=module_of)
def test_the_engine_knows_errors_and_bundles_alone(path: Path) -> None:
    for name in imported(path):
        first, *_ = name.split(".")
        assert first not in ("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic")
        if first == "server":
            assert name == "server.errors" or name.startswith("server.engine.")


@pytest.mark.parametrize("path", ENGINE, ids=module_of)
def test_the_engine_has_no_lock(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert names & LOCKS == set()


def test_imports_do_not_go_round() -> None:
    below = {name: MODULES.keys() & imported(path) for name, path in MODULES.items()}
    assert len([*TopologicalSorter(below).static_order()]) == len(MODULES)
