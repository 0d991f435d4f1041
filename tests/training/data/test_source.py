"""Images decoded on demand: fitted, named where they cannot be, refused or skipped."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.bundle.image import fit_image
from models.bundle.image_input import ImageInput
from tests.images import encoded
from tests.training.data.files import grey, write_images, write_parquet
from training.data import DataError, ImageSource, decoding, load_images, open_images
from training.data.layout import open_rows


def test_digits_are_split_for_good() -> None:
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (tuple(train.images.shape), tuple(test.images.shape)) == (
        (1347, 8, 8, 1),
        (450, 8, 8, 1),
    )
    for part in (train, test):
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert len(part) == len(part.labels) == len(part.images)
        assert part.names == tuple("0123456789")
        assert (part.images.min().item(), part.images.max().item()) == (0, 255)
    assert test.labels.bincount().tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]
    assert torch.equal(load_images("digits", "train").images, train.images)
    rows = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in rows for image in test.images)


def test_digits_are_not_resized() -> None:
    assert len(load_images("digits", "test", 8)) == 450
    with pytest.raises(DataError, match=r"^digits are 8 pixels wide and are not resized$"):
        load_images("digits", "test", 16)


def test_only_the_rows_taken_are_decoded(tmp_path: Path) -> None:
    broken = {"bytes": encoded(grey(30))[:45], "path": None}
    write_parquet(tmp_path, [grey(10), grey(20), broken, grey(40)])
    source = open_images(str(tmp_path), "train")
    assert source.labels.tolist() == [0, 1, 2, 0]
    taken = source.take(np.array([3, 0]))
    assert taken.images[:, 0, 0, 0].tolist() == [40, 10]
    assert taken.labels.tolist() == [0, 0]
    with pytest.raises(DataError, match=r"row 2 of the train split"):
        source.take(np.array([2]))


def photos(folder: Path) -> Path:
    """Two good images among two broken ones and one that is none."""
    write_images(folder / "train" / "ant", [10, 20, 30])
    write_images(folder / "train" / "bee", [40, 50])
    for name in ("ant/1.png", "bee/0.png"):
        path = folder / "train" / name
        path.write_bytes(path.read_bytes()[:45])
    return folder


def test_undecodable_images_are_counted_and_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        load_images(str(photos(tmp_path)), "train")
    message = str(refused.value)
    assert message.startswith(f"2 of 5 images cannot be decoded: {tmp_path}/train/ant/1.png (")
    assert f"{tmp_path}/train/bee/0.png (" in message
    assert message.endswith(
        "; leave them out with --set undecodable=skip (train) or --skip-undecodable (export, "
        "evaluate), or remove them before training"
    )


def test_undecodable_images_are_skipped_as_told(tmp_path: Path) -> None:
    source = replace(open_images(str(photos(tmp_path)), "train"), undecodable="skip")
    taken, kept = source.take_decodable(np.arange(5))
    assert kept.tolist() == [0, 2, 4]
    assert taken.images[:, 0, 0, 0].tolist() == [10, 30, 50]
    assert taken.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_damaged_image_is_no_traceback(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    png = BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    truncated = png.getvalue()[: int(kept * len(png.getvalue()))]
    write_parquet(tmp_path, [grey(1, 16), {"bytes": truncated, "path": None}, grey(3, 16)])
    with pytest.raises(DataError, match=r"^1 of 3 images cannot be decoded: .*row 1 of "):
        load_images(str(tmp_path), "train")


def test_channels_are_those_of_all_images_not_of_the_first(tmp_path: Path) -> None:
    grey(7).convert("L").save(write_images(tmp_path / "train" / "ant", [1, 2])[0])
    assert open_images(str(tmp_path), "train").target.channels == 3
    grey(7).convert("L").save(tmp_path / "train" / "ant" / "1.png")
    assert open_images(str(tmp_path), "train").target.channels == 1
    assert load_images(str(tmp_path), "train").images.shape == (2, 4, 4, 1)


def test_images_of_several_sizes_need_one_size(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", [1], size=4)
    write_images(tmp_path / "train" / "bee", [2], size=9)
    with pytest.raises(DataError) as refused:
        open_images(str(tmp_path), "train")
    assert str(refused.value) == (
        f"{tmp_path}/train has images of 2 sizes, from 4x4 to 9x9; "
        "choose one with --set image_size=PIXELS"
    )
    assert load_images(str(tmp_path), "train", 6).images.shape == (2, 6, 6, 3)


def test_images_that_are_not_square_keep_their_one_size(tmp_path: Path) -> None:
    (tmp_path / "train" / "ant").mkdir(parents=True)
    Image.new("RGB", (12, 5)).save(tmp_path / "train" / "ant" / "a.png")
    target = open_images(str(tmp_path), "train").target
    assert (target.width, target.height, target.resize) == (12, 5, "crop")


def test_worker_processes_decode_in_order_what_one_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        write_images(tmp_path / "train" / name, generator.integers(0, 256, 40).tolist(), size=9)
    (tmp_path / "train" / "bee" / "5.png").write_bytes(b"no image")
    rows, target = open_rows(str(tmp_path), "train"), ImageInput(height=6, width=6, channels=3)
    source = ImageSource(rows, target, "skip")
    index = generator.permutation(80)
    alone, kept = source.take_decodable(index)
    assert len(kept) == 79
    monkeypatch.setattr(decoding, "WORTH_WORKERS", 1)
    parts = list(source.batches(index, 7))
    assert np.concatenate([rows for rows, _ in parts]).tolist() == kept.tolist()
    assert torch.equal(torch.cat([images for _, images in parts]), alone.images)
    with pytest.raises(DataError, match=r"^1 of 80 images cannot be decoded: .*bee/5.png \("):
        replace(source, undecodable="refuse").take(index)


def test_workers_draw_nothing_from_the_runs_random_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "train" / "ant", range(9))
    monkeypatch.setattr(decoding, "WORTH_WORKERS", 1)
    before = torch.get_rng_state()
    load_images(str(tmp_path), "train")
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_fitted_as_the_server_fits_them(tmp_path: Path) -> None:
    wide = Image.linear_gradient("L").resize((40, 20)).convert("RGB")
    (tmp_path / "train" / "ant").mkdir(parents=True)
    wide.save(tmp_path / "train" / "ant" / "a.png")
    rows = open_rows(str(tmp_path), "train")
    for rule in ("squash", "crop", "pad"):
        target = ImageInput.model_validate({"height": 8, "width": 8, "channels": 3, "resize": rule})
        taken = ImageSource(rows, target).take(np.array([0])).images[0]
        np.testing.assert_array_equal(taken, fit_image(wide.copy(), target))


def test_cifar_100_is_whole(cifar100: Path) -> None:
    for split, rows in (("train", 50_000), ("test", 10_000)):
        images = load_images(str(cifar100), "train" if split == "train" else "test")
        assert tuple(images.images.shape) == (rows, 32, 32, 3)
        assert images.labels.bincount().tolist() == [rows // 100] * 100
        assert images.names.index("otter") == 55
        assert len(set(images.names)) == 100
