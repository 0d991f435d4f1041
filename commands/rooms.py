"""Rooms are loaded only when one of their commands is called."""

from importlib import import_module
from types import ModuleType

from models.bundle.errors import UserError


def room(name: str) -> ModuleType:
    """The command-line module of a room, imported now."""
    try:
        return import_module(f"{name}.cli")
    except ModuleNotFoundError as error:
        if name == "training" and error.name in ("torch", "datasets", "sklearn", "onnx"):
            raise UserError(f"training needs {error.name}: pip install 'offramp[train]'") from error
        raise
