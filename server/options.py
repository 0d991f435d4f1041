"""The options of `offramp serve` and their page in the docs, both made from the settings.

python -m server.options > docs/settings.md
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from server.settings import Record, records, variable

UNITS = {
    "_s": "SECONDS",
    "_bytes": "BYTES",
    "_pixels": "PIXELS",
    "_hashes": "HASHES",
    "_origins": "ORIGINS",
}
KINDS: dict[object, str] = {str: "TEXT", Path: "PATH"}
PAGE = """\
# Settings

<!-- made by `make settings` from server/settings.py -->

Every setting is an environment variable and an option of `offramp serve`: `OFFRAMP_MAX_IMAGES=8` is
`--max-images 8`, and `OFFRAMP_ACCESS_LOG=false` is `--no-access-log`. The option wins. A variable
that is unknown or has a bad value stops the start: one sentence says why, and the status is 1.

| | variable | unit | default | meaning |
|---|---|---|---|---|"""


def settings() -> Iterator[tuple[str, type[Record], str, FieldInfo]]:
    """The layer, its record, name and field of every setting, in order."""
    for layer, record in records().items():
        for name, field in record.model_fields.items():
            yield layer, record, name, field


@cache
def options() -> list[Any]:
    """Typer's options, one per setting; each notes its text in the context's `obj`."""

    def command() -> None: ...

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter(*setting) for setting in settings()]
    )
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return typer.main.get_command(app).params[:]


def parameter(layer: str, record: type[Record], name: str, field: FieldInfo) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    is_flag = field.annotation is bool
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_flag else flag,
        help=help_text(field),
        metavar=None if is_flag else unit(name, field),
        parser=None if is_flag else checked(record, name),
        callback=note,
        expose_value=False,
        rich_help_panel=layer.capitalize(),
    )
    kind = bool if is_flag else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def note(context: typer.Context, parameter: typer.CallbackParam, value: object) -> None:
    """Keeps an option that was given."""
    if value is not None:
        context.ensure_object(dict)[parameter.name] = str(value)


def checked(record: type[Record], name: str) -> Callable[[str], str]:
    """The text of a value, once the setting takes it; what is wrong with it is a usage error."""

    def check(text: str) -> str:
        try:
            record.model_validate({name: text})
        except ValidationError as error:
            for found in error.errors():
                if found["loc"]:  # else it is about several settings together
                    message = found["msg"].removeprefix("Value error, ")
                    raise typer.BadParameter(message) from None
        return text

    return check


def help_text(field: FieldInfo) -> str:
    """What a setting is, its unit and its default."""
    value = default(field)
    return f"{field.description} Default: {value}." if value else f"{field.description}"


def unit(name: str, field: FieldInfo) -> str:
    for suffix, found in UNITS.items():
        if name.endswith(suffix):
            return found
    return KINDS.get(field.annotation, "NUMBER")


def default(field: FieldInfo) -> str:
    """A default that is a constant; the descriptions say the others."""
    if field.annotation is bool:
        return "on" if field.default else "off"
    is_constant = field.default_factory is None and field.default not in (None, (), "")
    return str(field.default) if is_constant else ""


def page() -> str:
    """The docs' page of all settings."""
    rows, before = [PAGE], ""
    for layer, _, name, field in settings():
        kind = "on or off" if field.annotation is bool else unit(name, field).lower()
        group = "" if layer == before else f"**{layer.capitalize()}**"
        before = layer
        value = f"`{text}`" if (text := default(field)) else ""
        rows.append(f"| {group} | `{variable(name)}` | {kind} | {value} | {field.description} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")
