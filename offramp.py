"""The command line's front door. A room is loaded only when its command is called."""

import os
import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from commands import attaching, loading, making, measuring, serving
from models.bundle.errors import UserError

COMMANDS = {
    "Make bundles": (making.train, making.export, attaching.attach),
    "Measure": (
        measuring.evaluate,
        measuring.reproduce,
        measuring.profile,
        loading.simulate,
        loading.load,
    ),
}
"""As the help shows them: a panel's title and its commands."""

app = typer.Typer(
    help="Serve classifiers that can stop early: each answer is the best that its budget allows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(cls=serving.ServeCommand, rich_help_panel="Serve")(serving.serve)
for panel, shown in COMMANDS.items():
    for command in shown:
        app.command(rich_help_panel=panel)(command)


def print_version(is_wanted: bool) -> None:
    """Prints the version and ends, where the option asks for it."""
    if is_wanted:
        typer.echo(f"offramp {installed_version('offramp')}")
        raise typer.Exit


@app.callback()
def offramp(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Takes the options that belong to no command."""


def at_home(word: str) -> str:
    """A word of the command line with `~` expanded, also behind `=`, where shells leave it."""
    name, equals, value = word.partition("=")
    if equals and value.startswith("~"):
        return f"{name}={os.path.expanduser(value)}"
    return os.path.expanduser(word)


def main() -> None:
    """Runs the command line; what a person can mend is one sentence, not a traceback."""
    try:
        app(args=[at_home(word) for word in sys.argv[1:]], prog_name="offramp")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:  # a full disk, a path that is a file, no rights
        if error.filename is None and error.errno is None:
            raise  # of a library that says nothing about the user's files
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror}")


if __name__ == "__main__":
    main()
