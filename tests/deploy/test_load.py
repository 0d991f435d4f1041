"""The load profile's traffic, from a real locust to a real server."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.process import ROOT
from benchmarks.prometheus import eventually
from deploy.load import draw
from tests.deploy.test_compose import SERVICES, on_host
from tests.server.live import samples

MODEL = 'model="cifar100-msdnet"'
WANTED = {
    *(f'offramp_requests_total{{code="{c}",route="/v1/classify"}}' for c in (200, 400, 503)),
    *(f'offramp_stops_total{{{MODEL},reason="{r}"}}' for r in ("confident", "energy", "final")),
    *(f'offramp_exits_total{{exit="{exit}",{MODEL}}}' for exit in (1, 2, 7)),
}


def test_images_are_what_the_script_draws() -> None:
    committed = [np.asarray(Image.open(path)) for path in sorted(draw.DIRECTORY.iterdir())]
    for image, drawn in zip(committed, draw.variants(), strict=True):
        np.testing.assert_array_equal(image, np.asarray(drawn))
    assert len({image.tobytes() for image in committed}) == len(committed) >= 30


@pytest.mark.alone
def test_load_makes_every_kind_of_answer(shipped: str, tmp_path: Path) -> None:
    options = {o.partition("=")[0]: o.partition("=")[2] for o in SERVICES["load"]["command"]}
    options["--locustfile"] = str(ROOT / on_host("load", options["--locustfile"]))
    options["--host"] = shipped
    command = [f"{name}={value}" if value else name for name, value in options.items()]
    before = samples(shipped)

    def grown() -> dict[str, float]:
        """By how much series have grown, those that have."""
        grown = {name: value - before.get(name, 0) for name, value in samples(shipped).items()}
        return {name: value for name, value in grown.items() if value > 0}

    def spread() -> list[int]:
        """How many buckets of confidence have grown, of the first exit and the last."""
        counts = grown().items()
        return [len({n for name, n in counts if is_bucket(name, exit)}) for exit in (1, 7)]

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", *command], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: WANTED - grown().keys(), set(), limit_s=60)
        eventually(lambda: min(spread()) >= 4, True, limit_s=60)
    finally:
        process.send_signal(signal.SIGINT)  # locust then exits with 1 where a request failed
        process.wait(20)
    assert process.returncode == 0, (tmp_path / "log").read_text()


def is_bucket(series: str, exit: int) -> bool:
    """Whether it counts confidences up to some bound, of an exit."""
    return re.match(rf'offramp_confidence_bucket\{{exit="{exit}"', series) is not None
