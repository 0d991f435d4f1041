from pathlib import Path

import pytest

from server.settings import NUM_CORES, SettingsError, load_settings, records


def test_what_is_given_wins_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_PORT", "1234")
    monkeypatch.setenv("OFFRAMP_ZOO", "elsewhere")
    settings = load_settings(port="4321")
    assert (settings.address.port, settings.models.zoo) == (4321, Path("elsewhere"))


def test_the_parts_of_a_list_may_have_blanks_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_CORS_ORIGINS", "https://a.example, https://b.example ,")
    assert load_settings().access.cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize("origin", ["https://a.example", "http://[::1]:8000", "null", "*"])
def test_an_origin_is_what_browsers_say(origin: str) -> None:
    assert load_settings(cors_origins=origin).access.cors_origins == (origin,)
    assert load_settings(cors_origins=origin.upper()).access.cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    ["https://a.example/", "a.example", "https://*.example", "https://"],
)
def test_an_origin_that_no_browser_says_stops_the_start(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"OFFRAMP_CORS_ORIGINS.1: an origin is like https://"):
        load_settings(cors_origins=f"https://b.example, {origin}")


def test_unknown_variable_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_WORKRES", "2")
    said = "unknown setting OFFRAMP_WORKRES; did you mean OFFRAMP_WORKERS"
    with pytest.raises(SettingsError, match=said):
        load_settings()
    monkeypatch.delenv("OFFRAMP_WORKRES")
    monkeypatch.setenv("OFFRAMP_COLOUR", "red")
    with pytest.raises(SettingsError, match="OFFRAMP_COLOUR; offramp serve --help lists all"):
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
    with pytest.raises(SettingsError, match=f"OFFRAMP_{name.upper()}: .*{value}"):
        load_settings()


def test_every_setting_says_what_it_is() -> None:
    for record in records().values():
        for field in record.model_fields.values():
            assert field.description is not None
            assert field.description[0].isupper()
            assert field.description[-1] == "."


def test_processes_share_the_cores() -> None:
    assert load_settings(processes=1000).cores.workers == 1
    assert load_settings(processes=1).cores.workers == NUM_CORES
    assert load_settings().cores.workers == NUM_CORES


@pytest.mark.parametrize("path", ["offramp", "/offramp/", "/a?b"])
def test_a_prefix_is_a_path(path: str) -> None:
    assert load_settings(root_path="/models/offramp").address.root_path == "/models/offramp"
    with pytest.raises(SettingsError, match="OFFRAMP_ROOT_PATH: a path is like /offramp"):
        load_settings(root_path=path)


@pytest.mark.parametrize("name", ["host", "zoo", "cache"])
def test_an_empty_variable_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"OFFRAMP_{name.upper()}", "")
    said = f"OFFRAMP_{name.upper()}: at least one character is needed"
    with pytest.raises(SettingsError, match=said):
        load_settings()


def test_a_home_directory_is_known_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("OFFRAMP_ZOO", "~/zoo")
    found = load_settings(cache="~/costs").models
    assert (found.zoo, found.cache) == (Path("/home/ada/zoo"), Path("/home/ada/costs"))
    with pytest.raises(SettingsError, match="OFFRAMP_CACHE: no home directory is known for its ~"):
        load_settings(cache="~no-such-user/costs")


@pytest.mark.parametrize("name", ["watts_per_core", "drain_delay_s", "profile_s", "stall_s"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
def test_numbers_are_finite(name: str, value: str) -> None:
    said = f"OFFRAMP_{name.upper()}: Input should be a finite number"
    with pytest.raises(SettingsError, match=said):
        load_settings(**{name: value})


@pytest.mark.parametrize("text", ["secret", "z" * 64, "a" * 63, "aa " * 32])
def test_a_hash_that_is_none_is_told_and_not_repeated(text: str) -> None:
    assert load_settings(api_key_hashes="aB" * 32).access.api_key_hashes == (b"\xab" * 32,)
    with pytest.raises(SettingsError) as refused:
        load_settings(api_key_hashes=text)
    assert str(refused.value) == "OFFRAMP_API_KEY_HASHES.0: a SHA-256 has 64 hexadecimal digits"


def test_limits_that_exclude_each_other_are_both_named() -> None:
    said = "OFFRAMP_MAX_IMAGES, 64, exceeds OFFRAMP_MAX_IN_FLIGHT, 10"
    with pytest.raises(SettingsError, match=said):
        load_settings(max_in_flight=10)
    said = "OFFRAMP_MAX_BODY_BYTES, 2000, exceeds OFFRAMP_MAX_HELD_BYTES, 1000"
    with pytest.raises(SettingsError, match=said):
        load_settings(max_body_bytes=2000, max_held_bytes=1000)
