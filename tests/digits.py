"""The network of digits that most tests serve: how it is trained and exported, in seconds."""

from pathlib import Path

from training import loop
from training.config import RECIPES, TrainConfig
from training.exporting.export import export


def train(run: Path) -> None:
    config = {"data": "digits", "net": "msdnet-tiny"} | RECIPES["digits"]
    loop.train(TrainConfig.model_validate(config), run)


def export_first(run: Path, zoo: Path) -> None:
    """As digits version 1."""
    export(run, "digits", 1, zoo)
