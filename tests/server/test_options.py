"""The options of `offramp serve` are the settings, and so is their page."""

from collections import Counter

import pytest
import typer
from typer.core import TyperCommand

from benchmarks.process import ROOT
from server.options import options, page
from server.settings import load_settings, records


def given(*arguments: str) -> dict[str, object]:
    """What the command line gives as settings."""
    command = TyperCommand("serve", params=options())
    context = command.make_context("serve", list(arguments))
    found: dict[str, object] = context.obj or {}
    return found


def test_every_setting_has_one_option() -> None:
    names = [name for record in records().values() for name in record.model_fields]
    assert set(Counter(names).values()) == {1}
    assert [option.name for option in options()] == names
    assert all(option.help.endswith(".") for option in options())


def test_only_what_is_given_is_set() -> None:
    assert given() == {}
    found = given("--max-images", "3", "--no-access-log", "--zoo", "here", "--traces")
    assert found == {"max_images": "3", "access_log": "False", "zoo": "here", "traces": "True"}
    assert not load_settings(access_log=found["access_log"]).telemetry.access_log


def test_a_bad_value_is_a_usage_error_and_no_key_is_repeated() -> None:
    with pytest.raises(typer.BadParameter, match="greater than 0"):
        given("--profile-s", "-1")
    with pytest.raises(typer.BadParameter, match="hexadecimal") as error:
        given("--api-key-hashes", "secret-key")
    assert "secret-key" not in str(error.value)


def test_settings_that_must_fit_together_are_checked_later() -> None:
    assert given("--max-images", "300", "--max-in-flight", "300")["max_images"] == "300"


def test_the_page_of_settings_is_the_code_s() -> None:
    assert (ROOT / "docs/settings.md").read_text() == page()
