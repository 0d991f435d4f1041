"""Functions in a user's own files and modules, by name."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from models.nets.multi_exit import NetError

FUNCTION_NAME = r".+\.py:\w+|\w+(\.\w+)*:\w+"
"""The form of a name that `load_function` takes."""


@contextmanager
def introduced(name: str) -> Iterator[None]:
    """Prints a line before an exception of the user's own network: the fault is in that code."""
    try:
        yield
    except NetError:
        raise
    except Exception:
        print(f"{name} failed; the traceback is of that code:", file=sys.stderr)
        raise


def load_function(name: str) -> Callable[..., Any]:
    """The function that "path/to/file.py:function" or "package.module:function" names.

    Raises NetError where there is no such file, module or function.
    """
    source, _, function = name.rpartition(":")
    try:
        module = load_file(source) if source.endswith(".py") else import_module(source)
    except (ImportError, OSError, SyntaxError) as error:
        raise NetError(f"{source} cannot be imported: {error}") from error
    found: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(found):
        raise NetError(f"{source} has no function {function!r}")
    return found


def load_file(path: str) -> ModuleType:
    """Runs a file as a module, and registers it where torch.compile looks its functions up."""
    name = f"offramp_own_{Path(path).stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None  # the path ends in .py
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
