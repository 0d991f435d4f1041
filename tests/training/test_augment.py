import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from training.augment import (
    PARTNER_OFFSET,
    channel_statistics,
    cut_out,
    flipped,
    mixed,
    normalised,
    shifted,
)
from training.config import Mixing


def distinct(batch: int = 4, height: int = 5, width: int = 6) -> Tensor:
    """Images of two channels in which no two values are equal, and none is zero."""
    return 1 + torch.arange(batch * 2 * height * width).reshape(batch, 2, height, width).float()


def test_pixels_are_normalised_per_channel() -> None:
    images = torch.tensor([[[[0, 51], [255, 102]]]], dtype=torch.uint8)  # one row of two pixels
    made = normalised(images, torch.tensor([0.5, 0.2]), torch.tensor([0.25, 0.1]))
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]]))


def test_the_result_is_channels_first_in_shape_and_last_in_memory() -> None:
    made = normalised(torch.zeros(2, 5, 6, 3, dtype=torch.uint8), torch.zeros(3), torch.ones(3))
    assert made.shape == (2, 3, 5, 6)
    assert made.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(0, 2**32))
def test_each_image_is_itself_or_its_mirror_image(seed: int) -> None:
    torch.manual_seed(seed)
    images = distinct()
    for image, made in zip(images, flipped(images), strict=True):
        assert torch.equal(made, image) or torch.equal(made, image.flip(2))


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    images = distinct(batch=2000, height=1, width=2)
    is_mirrored = (flipped(images) != images).any(dim=(1, 2, 3))
    assert is_mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_each_image_is_a_crop_of_itself_padded_with_zeros(seed: int, padding: int) -> None:
    torch.manual_seed(seed)
    images = distinct()
    height, width = images.shape[2:]
    for image, made in zip(images, shifted(images, padding), strict=True):
        padded = F.pad(image, (padding,) * 4)
        offsets = range(2 * padding + 1)
        crops = [padded[:, y : y + height, x : x + width] for y in offsets for x in offsets]
        assert any(torch.equal(made, crop) for crop in crops)


def test_every_shift_occurs_and_images_shift_independently() -> None:
    torch.manual_seed(0)
    images = torch.zeros(900, 1, 3, 3)
    images[:, :, 1, 1] = 1
    made = shifted(images, 1)
    places = made.flatten(1).argmax(dim=1).bincount(minlength=9)
    assert made.sum(dim=(1, 2, 3)).eq(1).all()
    assert places.tolist() == pytest.approx([100] * 9, abs=40)


def test_without_padding_nothing_moves() -> None:
    assert torch.equal(shifted(distinct(), 0), distinct())


def test_channel_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (20, 4, 4, 3), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    assert mean.tolist() == pytest.approx(pixels.mean(dim=(0, 1, 2)).tolist())
    assert std.tolist() == pytest.approx(pixels.std(dim=(0, 1, 2), correction=0).tolist())


def test_a_constant_channel_normalises_to_zero() -> None:
    images = torch.full((2, 4, 4, 1), 77, dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert std.item() == pytest.approx(1 / 255)
    assert normalised(images, mean, std).abs().max() < 1e-4


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_a_square_of_each_image_is_blanked(seed: int, size: int) -> None:
    torch.manual_seed(seed)
    images = distinct()
    for image, made in zip(images, cut_out(images, size), strict=True):
        is_blank = made.eq(0).all(dim=0)
        assert torch.equal(made, torch.where(is_blank, 0.0, image))
        rows, columns = (is_blank.any(dim=dim).nonzero() for dim in (1, 0))
        assert 1 <= len(rows) <= size
        assert 1 <= len(columns) <= size
        assert is_blank[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert is_blank.sum() == len(rows) * len(columns)


def test_squares_are_whole_but_for_the_border_and_differ_between_images() -> None:
    torch.manual_seed(0)
    made = cut_out(torch.ones(500, 1, 16, 16), 4)
    areas = made.eq(0).sum(dim=(1, 2, 3))
    assert areas.max() == 16
    assert areas.min() == 4  # its centre in a corner
    assert len({tuple(image.flatten().tolist()) for image in made}) > 150


@given(st.integers(0, 2**32))
def test_mixup_adds_each_images_partner(seed: int) -> None:
    torch.manual_seed(seed)
    images = distinct(batch=6)
    made, share = mixed(images, "mixup")
    assert 0 <= share <= 1
    for i in range(6):
        expected = share * images[i] + (1 - share) * images[i - PARTNER_OFFSET]
        assert torch.allclose(made[i], expected)


@given(st.integers(0, 2**32))
def test_cutmix_fills_one_box_of_all_images(seed: int) -> None:
    torch.manual_seed(seed)
    images = distinct(batch=6)
    made, share = mixed(images, "cutmix")
    is_partners = (made != images).all(dim=1)
    assert torch.equal(is_partners, is_partners[:1].expand(6, -1, -1))
    box = is_partners[0]
    assert share.item() == pytest.approx(1 - box.float().mean().item())
    assert box.sum() == box.any(dim=0).sum() * box.any(dim=1).sum()
    for i in range(6):
        assert torch.equal(made[i], torch.where(box, images[i - PARTNER_OFFSET], images[i]))


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_half_of_the_batches_are_mixed(mixing: Mixing) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 16, 16)
    shares = torch.stack([mixed(images, mixing)[1] for _ in range(400)])
    assert shares.eq(1).float().mean().item() == pytest.approx(0.5, abs=0.08)
    mean = 0.5 if mixing == "mixup" else 0.65  # boxes are cut off at the border
    assert shares[shares < 1].mean().item() == pytest.approx(mean, abs=0.07)
