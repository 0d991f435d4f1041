"""`offramp serve`."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

from commands.rooms import room


class ServeCommand(TyperCommand):
    """`offramp serve`. Its options are the server's settings, loaded when they are needed."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401
        return [*import_module("server.options").options(), *super().get_params(ctx)]


def serve(context: typer.Context) -> None:
    """Serve every bundle of a directory over HTTP.

    Each option is also an environment variable: --max-images is OFFRAMP_MAX_IMAGES. The
    option wins.
    """
    room("server.processes").serve(context.obj or {})
