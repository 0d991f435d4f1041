"""Disjoint rows of every class, as many as there should be, drawn by the seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.config import TrainConfig
from training.data import DataError, Splits, split_rows


def config(
    images: int | None, selection: int, calibration: int, unlabelled: int = 0, seed: int = 0
) -> TrainConfig:
    return TrainConfig(
        data="digits",
        net="msdnet-tiny",
        images_per_class=images,
        selection_per_class=selection,
        calibration_per_class=calibration,
        unlabelled_per_class=unlabelled,
        seed=seed,
    )


class_sizes = st.lists(st.integers(30, 40), min_size=2, max_size=5)


def shuffled_labels(sizes: list[int], seed: int = 0) -> torch.Tensor:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return torch.from_numpy(np.random.default_rng(seed).permutation(labels))


def parts(splits: Splits) -> list[list[int]]:
    return [
        rows.tolist()
        for rows in (splits.train, splits.selection, splits.calibration, splits.unlabelled)
    ]


@given(
    class_sizes,
    st.none() | st.integers(10, 21),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 12),
    st.integers(0, 2**31),
)
def test_splits_are_disjoint_balanced_and_drawn_by_the_seed(
    sizes: list[int],
    images: int | None,
    selection: int,
    calibration: int,
    unlabelled: int,
    seed: int,
) -> None:
    labels = shuffled_labels(sizes)
    made = config(images, selection, calibration, unlabelled, seed)
    splits = split_rows(labels, made)
    assert parts(splits) == parts(split_rows(labels, made))
    everything = [row for rows in parts(splits) for row in rows]
    assert len(set(everything)) == len(everything)
    num_used = [size if images is None else images + calibration for size in sizes]
    for rows, expected in (
        (splits.train, [used - selection - calibration for used in num_used]),
        (splits.selection, [selection] * len(sizes)),
        (splits.calibration, [calibration] * len(sizes)),
        (
            splits.unlabelled,
            [min(unlabelled, size - used) for size, used in zip(sizes, num_used, strict=True)],
        ),
    ):
        assert labels[torch.from_numpy(rows)].bincount(minlength=len(sizes)).tolist() == expected


@pytest.mark.parametrize("images_per_class", [80, 150, 250, 350, 500])
def test_the_papers_splits_of_cifar_100(images_per_class: int) -> None:
    """X images per class, 50 of them to select with; all others lend their images."""
    labels = shuffled_labels([500] * 100)
    splits = split_rows(labels, config(images_per_class, 50, 0, unlabelled=500))
    sizes = {name: len(rows) / 100 for name, rows in vars(splits).items()}
    assert sizes == {
        "train": images_per_class - 50,
        "selection": 50,
        "calibration": 0,
        "unlabelled": 500 - images_per_class,
    }


def test_another_seed_draws_another_split() -> None:
    labels = shuffled_labels([50, 50])
    first, second = (split_rows(labels, config(None, 10, 10, seed=seed)) for seed in (0, 1))
    assert all(a != b for a, b in zip(parts(first)[:3], parts(second)[:3], strict=True))


def test_fewer_images_keep_selection_and_calibration() -> None:
    labels = shuffled_labels([50, 50])
    few, all_rows = (split_rows(labels, config(images, 10, 10)) for images in (15, None))
    assert parts(few)[1:] == parts(all_rows)[1:]
    assert set(parts(few)[0]) < set(parts(all_rows)[0])


def refusal(sizes: list[int], made: TrainConfig, names: list[str] | None = None) -> str:
    with pytest.raises(DataError) as refused:
        split_rows(shuffled_labels(sizes), made, names)
    return str(refused.value)


def test_all_classes_too_small_are_named_at_once_with_what_fits() -> None:
    message = refusal([40, 5, 20, 21], config(None, 10, 10), ["ant", "bee", "cat", "dog"])
    assert message == (
        "2 of 4 classes have too few rows for 10 to select with, 10 to calibrate with and 1 to "
        "train on: 'bee' has 5, 'cat' has 20; every class fits with --set selection_share=0.1 "
        "--set calibration_share=0.1"
    )
    assert "'bee' has 0" in refusal([40, 0, 30], config(None, 1, 1), ["ant", "bee", "cat"])
    assert "leave out classes of fewer than 3 rows" in refusal([40, 2], config(None, 1, 1))


def test_more_images_than_a_class_has_are_refused() -> None:
    message = refusal([40, 30], config(31, 10, 0))
    assert "0 to calibrate with and 21 to train on: '1' has 30; every class fits with" in message
    assert message.endswith("--set images_per_class=27")


def test_one_class_is_no_classification() -> None:
    assert refusal([40], config(None, 1, 1), ["ant"]) == "the only class is 'ant'; two are needed"


@given(st.lists(st.integers(3, 800), min_size=2, max_size=6), st.none() | st.sampled_from([0.5]))
def test_shares_fit_every_class_of_three(sizes: list[int], images: float | None) -> None:
    """What the refusal proposes."""
    shares = {"selection_share": 0.1, "calibration_share": 0.1, "images_share": images}
    made = config(None, 50, 25).model_copy(update=shares)
    if images and min(sizes) < 6:
        return
    splits = split_rows(shuffled_labels(sizes), made)
    labels = shuffled_labels(sizes)
    for k, size in enumerate(sizes):
        train, selection, calibration = (
            int((labels[torch.from_numpy(rows)] == k).sum())
            for rows in (splits.train, splits.selection, splits.calibration)
        )
        assert calibration == max(1, round(0.1 * size))
        used = round(0.5 * size) if images else size - calibration
        assert selection == max(1, round(0.1 * used))
        assert train == used - selection >= 1


def test_the_papers_tenth_of_imagenet_selects() -> None:
    made = config(100, 50, 0).model_copy(update={"selection_share": 0.1})
    splits = split_rows(shuffled_labels([120, 700]), made)
    assert (len(splits.train), len(splits.selection)) == (180, 20)
