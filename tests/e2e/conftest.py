"""What a bundle's segments say when run by hand, to compare servers with."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.confidence import Floats, Measure, calibrated_probabilities, confidence
from models.bundle.runner import SegmentRunner
from tests.images import encoded
from training.data import load_images
from training.evaluation.evaluate import all_logits

NUM_IMAGES = 60


@dataclass(frozen=True)
class ByHand:
    """Test images, as arrays and as PNG, and what every exit says of them."""

    images: NDArray[np.uint8]
    pngs: list[bytes]
    probabilities: list[Floats]
    measure: Measure

    @property
    def confidences(self) -> list[list[float]]:
        per_exit: NDArray[np.float32] = np.stack(
            [confidence(p, self.measure) for p in self.probabilities], axis=1
        )
        rows: list[list[float]] = per_exit.tolist()
        return rows

    def index(self, row: int, exit: int) -> int:
        return int(self.probabilities[exit - 1][row].argmax())


@pytest.fixture(scope="session")
def by_hand(digits_bundle: Bundle) -> ByHand:
    images = load_images("digits", "test").images.numpy()[:NUM_IMAGES]
    manifest = digits_bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, digits_bundle.graphs)
    logits = all_logits(runner, images, lambda _: None)
    probabilities = [
        calibrated_probabilities(z, fitted.calibration_temperature)
        for z, fitted in zip(logits, digits_bundle.calibration.exits, strict=True)
    ]
    pngs = [encoded(image) for image in images]
    return ByHand(images, pngs, probabilities, digits_bundle.calibration.confidence)
