"""Digits that benchmarks send, and the answers that the stop rule gives of each."""

from pathlib import Path

import pytest

from benchmarks.loading import Traffic, traffic
from models.bundle.bundle import Bundle
from models.bundle.confidence import calibrated_probabilities
from models.bundle.policy import policy_at, runs_head, stop_reason
from models.bundle.runner import Arrays, SegmentRunner

NUM_IMAGES = 40
Answer = tuple[int, int, float]
"""Index, exit and confidence."""


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    return traffic("digits", NUM_IMAGES, tmp_path_factory.mktemp("traffic"))


@pytest.fixture(scope="session")
def expected(asked: Traffic, digits_bundle: Bundle) -> list[Answer]:
    """For each image, at the operating point `balanced`."""
    return [one(digits_bundle, [image[None]]) for image in asked.images.images.numpy()]


@pytest.fixture(scope="session")
def bundle_path(digits_bundle: Bundle) -> Path:
    return digits_bundle.path


def one(bundle: Bundle, features: Arrays) -> Answer:
    """The server's stop rule, without a budget."""
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    policy = policy_at(bundle.calibration.operating_points["balanced"])
    for exit, fitted in enumerate(bundle.calibration.exits, 1):
        is_last = exit == manifest.num_exits
        features = runner.run_segment(exit, features)
        if runs_head(policy, exit, None) or is_last:
            logits = runner.run_head(exit, features)
            (found,) = calibrated_probabilities(logits, fitted.calibration_temperature)
            if stop_reason(policy, exit, found.max(), None) is not None or is_last:
                return int(found.argmax()), exit, float(found.max())
    raise AssertionError("the last exit answers")
