"""README and docs: links lead somewhere, commands exist."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from benchmarks.process import ROOT
from offramp import app

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(--[a-z][^`]*)`")
OTHER_PROGRAMS = {"--build-arg": True}
"""Options of Docker's."""
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app)


def name(path: Path) -> str:
    return path.name


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(LINK.findall(PAGES[0].read_text()))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def shown(page: Path) -> Iterator[list[str]]:
    """The words of every command in a page's shell blocks."""
    for block in SHELL.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_shown_exists(page: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in shown(page):
        if words[:1] == ["make"]:
            assert words[1] in targets
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]) is not None
        elif words[:1] == ["offramp"] and not words[1].startswith("-"):
            parse(words[1:])


def options() -> dict[str, bool]:
    """The options of every command, and whether they take a value."""
    assert isinstance(COMMANDS, TyperGroup)
    with COMMANDS.make_context("offramp", [], resilient_parsing=True) as context:
        return {
            name: not getattr(parameter, "is_flag", False)
            for command in COMMANDS.commands.values()
            for parameter in command.get_params(context)
            for name in (*parameter.opts, *parameter.secondary_opts)
        }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_option_named_exists(page: Path) -> None:
    known = options() | OTHER_PROGRAMS
    for inline in INLINE.findall(FENCE.sub("", page.read_text())):
        words = shlex.split(inline)
        for word, following in zip(words, [*words[1:], "--"], strict=True):
            option, equals, _ = word.partition("=")
            if not option.startswith("--"):
                continue
            assert option in known, inline
            has_value = bool(equals) or not following.startswith("--")
            assert known[option] or not has_value, inline


def parse(words: list[str]) -> None:
    """Raises a usage error for a command or an option that does not exist."""
    assert isinstance(COMMANDS, TyperGroup)
    with COMMANDS.make_context("offramp", list(words), resilient_parsing=True) as context:
        _, command, rest = COMMANDS.resolve_command(context, list(words))
        assert command is not None
        command.make_parser(context).parse_args(list(rest))
