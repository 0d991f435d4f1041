"""What a person can get wrong on the command line is one sentence, before any work."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from models.bundle.bundle import Bundle
from models.bundle.errors import UserError
from tests.training.data.files import write_images
from training import cli, loop
from training.config import RECIPES, TrainConfig
from training.data import DataError
from training.run import BEST


@pytest.mark.parametrize(
    ("net", "recipe", "settings", "complaint"),
    [
        ("msdnet-8", "paper", [], "no network 'msdnet-8'; there are msdnet-7, msdnet-11"),
        ("msdnet-7", "quick", [], "no recipe 'quick'; there are paper, paper-imagenet, short"),
        ("msdnet-7", "paper", ["epochs=0"], "epochs: Input should be greater than 0"),
        ("msdnet-7", "paper", ["loss=mse"], "loss: Input should be 'distillation' or"),
        ("msdnet-7", "paper", ["colour=red"], "there is no setting colour; training/config.py"),
        ("msdnet-7", "paper", ["epochs"], "epochs: Input should be a valid integer"),
        (
            "msdnet-7",
            "paper",
            ["micro_batches=3"],
            "a batch of 64 cannot be cut into 3 equal parts",
        ),
        (
            "msdnet-7",
            "paper",
            ["loss=exit-wise", "unlabelled_per_class=1"],
            "the exit-wise loss learns nothing from unlabelled rows",
        ),
        (
            "msdnet-7",
            "digits",
            ["schedule=step"],
            "warmup_epochs is for schedule=linear, not step: set it to 0",
        ),
    ],
)
def test_a_bad_option_is_named(
    net: str, recipe: str, settings: list[str], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        cli.train(tmp_path / "run", "digits", net, recipe, settings)
    assert str(refused.value).startswith(complaint)
    assert not (tmp_path / "run").exists()


def test_settings_change_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainConfig] = []

    def train(config: TrainConfig, directory: Path, *, is_rehearsed: bool) -> Path:
        assert is_rehearsed
        seen.append(config)
        return directory / BEST

    monkeypatch.setattr(loop, "train", train)
    settings = ["epochs=3", "weight_decay=5e-4", "bf16=true", "decay_epochs=[1, 2]"]
    cli.train(tmp_path, "digits", "msdnet-tiny", "digits", settings)
    expected = {"data": "digits", "net": "msdnet-tiny"} | RECIPES["digits"]
    changes = {"epochs": 3, "weight_decay": 5e-4, "bf16": True, "decay_epochs": (1, 2)}
    assert seen == [TrainConfig.model_validate(expected | changes)]


def test_columns_may_be_called_by_a_number() -> None:
    settings = [
        "label_column=2",
        "text_column=1.10",
        "number_columns=0,1",
        "example=null",
        "seed=2",
    ]
    assert cli.values_of(settings) == {
        "label_column": "2",
        "text_column": "1.10",
        "number_columns": "0,1",
        "example": None,
        "seed": 2,
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_valid_configuration(recipe: str) -> None:
    made = TrainConfig.model_validate({"data": "digits", "net": "msdnet-7"} | RECIPES[recipe])
    assert made.epochs > made.warmup_epochs


def test_data_with_other_labels_are_no_test_of_a_bundle(
    digits_bundle: Bundle, tmp_path: Path
) -> None:
    write_images(tmp_path / "test" / "eleven", [1])
    with pytest.raises(DataError, match=r"not among the labels: eleven$"):
        cli.evaluate(digits_bundle.path, str(tmp_path), None)


def test_images_of_any_shape_are_fitted_as_the_bundle_says(
    digits_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size in (("0", (20, 8)), ("1", (5, 9))):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", size).save(tmp_path / "test" / name / "a.png")
    cli.evaluate(digits_bundle.path, str(tmp_path), None)
    assert "2 rows" in capsys.readouterr().out


def test_a_run_that_never_was_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no checkpoint at .*best.pt$"):
        cli.export(tmp_path, "digits", 1, tmp_path / "zoo", 0.02)
    assert not (tmp_path / "zoo").exists()


def test_exporting_prints_the_report(
    digits_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = shutil.copytree(digits_bundle.path, tmp_path / "digits" / "1")
    given: list[object] = []

    def export(*arguments: object, int8: bool, skip_undecodable: bool) -> Path:
        given.extend((*arguments, int8, skip_undecodable))
        return Path(path)

    monkeypatch.setattr(cli, "export_run", export)
    cli.export(tmp_path, "digits", 1, tmp_path, 0.05, int8=True, skip_undecodable=True)
    assert given == [tmp_path, "digits", 1, tmp_path, 0.05, True, True]
    printed = capsys.readouterr().out
    assert printed.startswith("# digits version 1 on digits, test split")
    assert printed.endswith(f"wrote {path}\n")
