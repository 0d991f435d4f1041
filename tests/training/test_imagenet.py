"""ImageNet(X) from folders of JPEGs: made photographs of many sizes, the paper's protocol."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from models.bundle.image_input import ImageInput
from training import checkpoint, loop
from training.config import RECIPES, TrainConfig
from training.data import load_images
from training.run_data import SPLITS

CLASSES = ("n01440764", "n01443537", "n02088364")
NUM_TRAIN, NUM_TEST = 30, 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every class has a colour; images have noise, sizes and orientations of their own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    generator = np.random.default_rng(0)
    root = tmp_path / "imagenet"
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        for channel, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = generator.integers(40, 90, size=2)
                pixels = generator.integers(0, 100, size=(height, width, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / split / name / f"{name}_{i}.JPEG")
    return root


def test_a_folder_of_jpegs_is_trained_on(folder: Path, tmp_path: Path) -> None:
    """A tenth of the X images of a class select, the rest trains."""
    changes = {
        "net": "msdnet-tiny",
        "image_size": 32,
        "images_per_class": 20,
        "calibration_per_class": 3,
        "unlabelled_per_class": 10,
        "batch_size": 12,
        "epochs": 6,
        "decay_epochs": (4,),
    }
    recipe = {"data": str(folder), **RECIPES["paper-imagenet"], **changes}
    config = TrainConfig.model_validate(recipe)
    assert config.distillation_confidence == 0.1
    assert config.random_resized_crop
    assert config.crop_share == 224 / 256
    best = checkpoint.load(loop.train(config, tmp_path / "run", lambda _: None))
    assert best.labels == list(CLASSES)
    assert best.shape == [32, 32, 3]
    assert isinstance(best.input, ImageInput)
    assert (best.input.resize, best.input.short_side) == ("crop", 37)
    assert best.best_score > 0.6  # a third by chance; colours are easy
    labels = load_images(str(folder), "train", 8).labels
    splits = np.load(tmp_path / "run" / SPLITS)
    sizes = {name: labels[splits[name]].bincount().tolist() for name in splits}
    assert sizes == {
        "train": [18] * 3,
        "selection": [2] * 3,
        "calibration": [3] * 3,
        "unlabelled": [7] * 3,
    }
