"""Digits that benchmarks send, and the answers that the stop rule gives of each."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loading import Traffic, traffic
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.confidence import softmax
from models.bundle.policy import policy_at, runs_head, stop_reason
from models.bundle.runner import Arrays, SegmentRunner
from tests.bundles import copied, set_threshold
from training.evaluation.evaluate import all_logits

NUM_IMAGES = 40
Answer = tuple[int, int, float]
"""Index, exit and confidence."""


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    return traffic("digits", NUM_IMAGES, tmp_path_factory.mktemp("traffic"))


@pytest.fixture(scope="session")
def bundle_path(
    asked: Traffic, digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Digits with a threshold that exit 1 exceeds on half of the images: they are easy."""
    manifest, fitted = digits_bundle.manifest, digits_bundle.calibration
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, digits_bundle.graphs)
    logits, *_ = all_logits(runner, asked.images.images.numpy(), lambda _: None)
    temperature = fitted.exits[0].calibration_temperature
    _, confidences = softmax(logits, temperature, fitted.confidence)
    threshold = float(np.median(confidences))  # of an even number: between two of them
    zoo = tmp_path_factory.mktemp("zoo")
    change = partial(set_threshold, threshold=threshold)
    copied(digits_bundle.path, zoo, "digits", 1, change)
    return zoo / "digits" / "1"


@pytest.fixture(scope="session")
def expected(asked: Traffic, bundle_path: Path) -> list[Answer]:
    """For each image, at the operating point `balanced`."""
    bundle = load_bundle(bundle_path)
    return [one(bundle, [image[None]]) for image in asked.images.images.numpy()]


def one(bundle: Bundle, features: Arrays) -> Answer:
    """The server's stop rule, without a budget."""
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    calibration = bundle.calibration
    policy = policy_at(calibration.operating_points["balanced"])
    for exit, fitted in enumerate(calibration.exits, 1):
        is_last = exit == manifest.num_exits
        features = runner.run_segment(exit, features)
        if runs_head(policy, exit, None) or is_last:
            logits = runner.run_head(exit, features)
            found, (sure,) = softmax(logits, fitted.calibration_temperature, calibration.confidence)
            if stop_reason(policy, exit, sure, None) is not None or is_last:
                return int(found.argmax()), exit, sure
    raise AssertionError("the last exit answers")
