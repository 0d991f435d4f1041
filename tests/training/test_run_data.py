"""A run's rows are split once, and refused when the data are others."""

import json
import shutil
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from models.bundle.bundle import load_bundle
from tests.training.data.files import write_images
from tests.training.runs import Killed
from training import loop
from training.config import TrainConfig
from training.data import DataError
from training.exporting.export import export
from training.run_data import SPLITS, open_data


def photos(tmp_path: Path) -> Path:
    for split, number in (("train", 24), ("test", 3)):
        for place, name in enumerate(("ant", "bee")):
            values = [100 * place + i for i in range(number)]
            write_images(tmp_path / "data" / split / name, values, size=16)
    return tmp_path / "data"


def config_of(data: Path, **changes: object) -> TrainConfig:
    values = {
        "data": str(data),
        "net": "msdnet-tiny",
        "selection_per_class": 2,
        "calibration_per_class": 16,
        "batch_size": 4,
        "epochs": 1,
        "schedule": "linear",
    }
    return TrainConfig.model_validate(values | changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    loop.train(config_of(photos(tmp_path)), tmp_path / "run", lambda _: None)
    return tmp_path / "run"


def test_images_added_after_training_are_noticed(run: Path) -> None:
    """Half of the calibration rows would have been trained on."""
    write_images(run.parent / "data" / "train" / "ant", range(27), size=16)
    before = (run / SPLITS).read_bytes()
    message = "class 'ant' of train has 27 rows, not 24"
    with pytest.raises(DataError, match=message):
        export(run, "animals", 1, run.parent / "zoo")
    with pytest.raises(DataError, match=message):
        loop.train(config_of(run.parent / "data"), run, lambda _: None)
    assert (run / SPLITS).read_bytes() == before
    assert not (run.parent / "zoo" / "animals" / "1").exists()


def test_images_removed_after_training_are_noticed(run: Path) -> None:
    (run.parent / "data" / "train" / "bee" / "7.png").unlink()
    with pytest.raises(DataError, match=r"class 'bee' of train has 23 rows, not 24"):
        loop.train(config_of(run.parent / "data"), run, lambda _: None)


def test_splits_are_never_drawn_again(run: Path) -> None:
    """Not even where the seed would draw others."""
    config = config_of(run.parent / "data", seed=1)
    kept = open_data(config, run, is_new=False).splits
    drawn = open_data(config, run, is_new=True).splits
    assert kept.train.tolist() == np.load(run / SPLITS)["train"].tolist()
    assert kept.train.tolist() != drawn.train.tolist()


def test_a_run_that_goes_on_leaves_its_splits_alone(run: Path) -> None:
    before = (run / SPLITS).stat().st_mtime_ns
    loop.train(config_of(run.parent / "data"), run, lambda _: None)
    assert (run / SPLITS).stat().st_mtime_ns == before


def test_killed_while_it_writes_its_splits_a_run_keeps_the_old_ones(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(file: IO[bytes], **_: object) -> None:
        file.write(b"PK")
        raise Killed

    before = (run / SPLITS).read_bytes()
    data = open_data(config_of(run.parent / "data"), run, is_new=True)
    monkeypatch.setattr(np, "savez", dies)
    with pytest.raises(Killed):
        data.keep(run)
    assert (run / SPLITS).read_bytes() == before


def test_the_same_data_elsewhere_are_the_same(run: Path) -> None:
    shutil.copytree(run.parent / "data", run.parent / "copy")
    open_data(config_of(run.parent / "copy"), run, is_new=False)


def test_a_run_says_what_becomes_of_its_images(tmp_path: Path) -> None:
    data = photos(tmp_path)
    Image.new("L", (50, 30)).save(data / "train" / "ant" / "0.png")
    made = config_of(data, image_size=12, crop_share=0.75)
    assert open_data(made, tmp_path, is_new=True).notes == [
        f"data: {data}/train: 48 of 48 images looked at: in colour, 1 of them grey, "
        "from 16x16 to 50x30 pixels",
        f"data: {data}/test: 6 of 6 images looked at: in colour, 0 of them grey, 16x16 pixels",
        "images become 12x12x3: short side scaled to 16, then the centre cropped",
    ]
    squashed = open_data(config_of(data, image_size=12, resize="squash"), tmp_path, is_new=True)
    assert squashed.notes[-1] == "images become 12x12x3: squashed, aspect ratio not kept"


def test_images_that_cannot_even_be_opened_are_refused_before_training(tmp_path: Path) -> None:
    data = photos(tmp_path)
    (data / "test" / "bee" / "2.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"^1 images cannot be opened: .*test/bee/2.png \("):
        open_data(config_of(data), tmp_path, is_new=True)
    open_data(config_of(data, undecodable="skip"), tmp_path, is_new=True)


def test_images_that_only_export_decodes_are_left_out_as_told(tmp_path: Path) -> None:
    data, run = photos(tmp_path), tmp_path / "run"
    config = config_of(data)
    calibrating = open_data(config, tmp_path, is_new=True).splits.calibration
    calibrates = sorted((data / "train" / "bee").iterdir())[calibrating[-1] - 24]
    for path in (calibrates, data / "test" / "bee" / "2.png"):
        path.write_bytes(path.read_bytes()[:45])
    loop.train(config, run, lambda _: None)
    with pytest.raises(DataError, match=rf"^1 of 32 images .*: {calibrates} .*--skip-undecodable"):
        export(run, "animals", 1, tmp_path / "zoo")
    bundle = load_bundle(export(run, "animals", 1, tmp_path / "zoo", skip_undecodable=True))
    assert bundle.calibration.num_rows == 31
    assert json.loads((bundle.path / "report.json").read_text())["num_rows"] == 5


def test_data_without_a_test_split_are_refused_before_training(tmp_path: Path) -> None:
    data = photos(tmp_path)
    shutil.rmtree(data / "test")
    with pytest.raises(DataError, match=r"^cannot load the test split of "):
        loop.train(config_of(data), tmp_path / "run", lambda _: None)
    assert not (tmp_path / "run" / SPLITS).exists()
