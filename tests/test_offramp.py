"""The command line: help a newcomer understands, and one sentence for what they can mend."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.process import ROOT
from benchmarks.small_bundles import LENGTHS, write_text_bundle
from models.bundle.bundle import Bundle
from offramp import at_home, main


def process(*arguments: str, code: int = 0, environment: Mapping[str, str] = os.environ) -> str:
    """Runs a command, checks how it ended, and returns what it printed."""
    command = [sys.executable, "-m", "offramp", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def offramp(*arguments: str, code: int = 0) -> str:
    """As `process`, in this one: another would import torch for seconds."""
    printed, said = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(said):
        patch.setattr(sys, "argv", ["offramp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    message = ended.value.code if isinstance(ended.value.code, str) else ""  # Python prints it
    assert (1 if message else ended.value.code) == code, said.getvalue()
    return printed.getvalue() if code == 0 else said.getvalue() + message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["--data", "--recipe", "--set", "resumes"]),
        ("export", ["--name", "--zoo", "bundle"]),
        ("attach", ["Where to cut", "Labels", "Images", "Texts", "What comes out"]),
        ("evaluate", ["--data", "operating points"]),
        ("profile", ["costs on this host"]),
        (
            "serve",
            [
                "--zoo",
                "Limits",
                "OFFRAMP_MAX_IMAGES",
                "Rows in one request",
            ],
        ),
    ],
)
def test_help(command: str, words: list[str]) -> None:
    text = " ".join(offramp(command, "--help").split())
    for word in words:
        assert word in text


def test_version_is_the_package_s() -> None:
    assert process("--version") == f"offramp {version('offramp')}\n"


def test_a_shell_completes_the_settings() -> None:
    environment = {"_OFFRAMP_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    environment |= {"COMP_WORDS": "offramp serve --max-i"}
    assert process(environment=os.environ | environment).split() == [
        "--max-in-flight",
        "--max-images",
        "--max-image-pixels",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--prot", "1"],
        ["serve", "--port", "70000"],
        ["export", "RUN", "--name", "x", "--version", "0"],
        ["train", "RUN"],
        ["fly"],
    ],
)
def test_a_wrong_command_line_has_status_2(arguments: list[str]) -> None:
    assert "Usage: offramp" in offramp(*arguments, code=2)


def test_a_package_that_serving_does_without_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; from offramp import main; main()"
    command = [sys.executable, "-c", code, "evaluate", "zoo/mine/1", "--data", "digits"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: this command needs torch: pip install 'offramp[train]'\n"


def test_top_help_loads_no_room() -> None:
    code = (
        "import sys; sys.argv = ['offramp', '--help']\n"
        "import offramp\n"
        "try: offramp.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'fastapi', 'onnxruntime', 'pydantic') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "RUN", "--data", "digits", "--recipe", "long"], "no recipe 'long'; there are"),
        (
            ["attach", "N.onnx", "--data", "RUN", "--name", "a", "--at", "x", "--exits", "2"],
            "--at says how many exits there are: leave out --exits",
        ),
        (["train", "RUN", "--data", "digits", "--net", "vgg"], "no network 'vgg'; there are"),
        (["train", "RUN", "--data", "/nowhere"], "cannot load the train split of '/nowhere'"),
        (["train", "RUN", "--data", "digits", "--set", "loss=mse"], "loss: "),
        (["export", "RUN", "--name", "x"], "no checkpoint at"),
        (["evaluate", "RUN", "--data", "digits"], "is not a bundle directory"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    run = str(tmp_path / "run")
    assert_one_sentence(offramp(*[run if a == "RUN" else a for a in arguments], code=1), sentence)


def assert_one_sentence(said: str, sentence: str) -> None:
    last = said.splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last


def test_a_process_that_cannot_go_on_ends_with_one_sentence(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert_one_sentence(process("profile", run, code=1), "is not a bundle directory")
    said = process("serve", "--port", "0", "--zoo", run, code=1)
    assert_one_sentence(said, "cannot be read: No such file")


def test_places_that_cannot_be_written_get_one_sentence(digits_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("notes")
    said = offramp("train", str(file), "--data", "digits", code=1)
    assert said.splitlines()[-1] == f"error: {file} is a file, not a run's directory"
    said = offramp("train", str(file / "run"), "--data", "digits", code=1)
    assert said.splitlines()[-1] == f"error: {file / 'run'}: Not a directory"
    said = offramp("export", str(digits_run), "--name", "x", "--zoo", str(file), code=1)
    assert said.splitlines()[-1] == f"error: {file / 'x'}: Not a directory"


SIMULATE = ("simulate", str(ROOT / "models/zoo/cifar100-msdnet/7"))
LOAD = ("load", "http://127.0.0.1:1", "--data", str(ROOT / "examples"))


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        *((SIMULATE, "--rate", value) for value in ("0", "-1", "inf", "nan")),
        (LOAD, "--rate", "inf"),
        (LOAD, "--seconds", "inf"),
        *(
            (command, "--latency-budget-ms", value)
            for command in (SIMULATE, LOAD)
            for value in ("0", "-5", "nan")
        ),
    ],
)
def test_load_and_simulate_need_numbers_above_zero(
    command: tuple[str, ...],
    option: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rate = () if option == "--rate" else ("--rate", "10")
    monkeypatch.setattr(sys, "argv", ["offramp", *command, *rate, f"{option}={value}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {option} must be a number above 0, not {value}\n"


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("~/run", "/home/ada/run"),
        ("--zoo=~/zoo", "--zoo=/home/ada/zoo"),
        ("start_from=~", "start_from=/home/ada"),
        ("a~b", "a~b"),
        ("--labels=a=~", "--labels=a=~"),
    ],
)
def test_a_home_directory_is_known_anywhere_on_the_command_line(
    word: str, expanded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert at_home(word) == expanded


def test_damaged_checkpoint_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"rubbish")
    said = offramp("export", str(tmp_path), "--name", "x", code=1)
    assert said.splitlines()[-1].startswith(f"error: {tmp_path / 'best.pt'} is damaged")


def test_evaluate_prints_the_report_of_the_bundle(digits_bundle: Bundle, tmp_path: Path) -> None:
    printed = offramp(
        "evaluate", str(digits_bundle.path), "--data", "digits", "--out", str(tmp_path)
    )
    assert printed.strip() == (digits_bundle.path / "report.md").read_text().strip()
    written = (tmp_path / "report.json").read_text()
    assert written == (digits_bundle.path / "report.json").read_text()


def test_profile_prints_every_length_of_texts(tmp_path: Path) -> None:
    printed = offramp("profile", str(write_text_bundle(tmp_path)))
    for length in LENGTHS:
        assert printed.count(f"texts of {length} tokens") == 2, "a median and a 95th percentile"
    assert printed.count("segment 1") == 2 * len(LENGTHS)


def test_profile_prints_every_graph(digits_bundle: Bundle) -> None:
    printed = offramp("profile", str(digits_bundle.path))
    for exit in (1, 2, 3):
        assert f"segment {exit}" in printed
        assert f"exit head {exit}" in printed
