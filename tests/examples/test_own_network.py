"""docs/your-own-network.md, done as it says."""

import re
import shlex
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.process import ROOT
from models.bundle.bundle import load_bundle
from models.bundle.runner import SegmentRunner
from models.nets.presets import PRESETS, build
from offramp import app
from tests.conftest import Serve
from training import checkpoint
from training.augment import normalised
from training.data import load_images
from training.evaluation.evaluate import all_logits
from training.exporting.graphs import PARITY_TOLERANCE
from training.run import BEST

DOC = (ROOT / "docs/your-own-network.md").read_text()


def shown(language: str) -> list[str]:
    """The code blocks of the page."""
    return re.findall(rf"```{language}\n(.*?)```", DOC, flags=re.DOTALL)


def test_the_page_shows_the_example_whole_and_it_is_short() -> None:
    source = (ROOT / "examples/own_network.py").read_text()
    assert shown("python") == [source]
    assert len(source.splitlines()) < 40


def test_the_page_names_every_preset() -> None:
    assert all(f"`{name}`" in DOC for name in PRESETS)


def test_the_commands_of_the_page_work(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, commands, question = shown("sh")
    train, export, serving = (shlex.split(line)[1:] for line in commands.splitlines())
    *_, url = request = shlex.split(question)
    image = request[request.index("--data-binary") + 1].removeprefix("@")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)

    for command in ([*train, "--set", "epochs=2"], export):
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0
    assert_exits_agree_with_torch(Path("runs/own"), Path("zoo/own/1"))
    assert serving == ["serve", "--zoo", "zoo"]
    with serve(Path("zoo")) as server:
        answer = httpx.post(
            url.replace("127.0.0.1:8000", server.url),
            content=Path(image).read_bytes(),
            headers={"content-type": "image/png"},
        ).json()
    assert (answer["model"], answer["num_exits"]) == ("own", 3)
    assert answer["label"] in "0123456789"


def assert_exits_agree_with_torch(run: Path, bundle_path: Path) -> None:
    bundle, saved = load_bundle(bundle_path), checkpoint.load(run / BEST)
    net = build(saved.config.net, saved.shape, len(saved.labels)).eval()
    net.load_state_dict(saved.weights)
    images = load_images("digits", "test").images[:50]
    with torch.no_grad():
        expected = net(normalised(images, torch.tensor(saved.mean), torch.tensor(saved.std)))
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    actual = all_logits(runner, images.numpy(), lambda _: None)
    for theirs, ours in zip(expected, actual, strict=True):
        assert ours == pytest.approx(theirs.numpy(), abs=PARITY_TOLERANCE)
