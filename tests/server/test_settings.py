from pathlib import Path

import pytest

from server.settings import NUM_CORES, Settings, SettingsError, load_settings


def test_options_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_PORT", "1234")
    monkeypatch.setenv("OFFRAMP_ZOO", "elsewhere")
    settings = load_settings(["--port", "4321"])
    assert (settings.port, settings.zoo) == (4321, Path("elsewhere"))


def test_unknown_variable_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_WORKRES", "2")
    with pytest.raises(SettingsError, match="unknown setting OFFRAMP_WORKRES"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", "0"),
        ("port", "x"),
        ("watts_per_core", "-1"),
        ("execution_provider", "NoSuchExecutionProvider"),
    ],
)
def test_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"OFFRAMP_{name.upper()}", value)
    with pytest.raises(SettingsError, match=f"setting {name}: .*{value}"):
        load_settings()


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_processes_share_the_cores() -> None:
    assert load_settings(["--processes", "1000"]).workers == 1
    assert load_settings(["--processes", "1"]).workers == load_settings().workers == NUM_CORES


@pytest.mark.parametrize("path", ["offramp", "/offramp/", "/a?b"])
def test_a_prefix_is_a_path(path: str) -> None:
    assert load_settings(["--root-path", "/models/offramp"]).root_path == "/models/offramp"
    with pytest.raises(SettingsError, match="setting root_path"):
        load_settings(["--root-path", path])
