"""Naive exits: a bundle's segments by hand, until an exit is more confident than its threshold."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.rivals.networks import Answer, Features, reader_of, session
from models.bundle.bundle import Bundle
from models.bundle.confidence import Measure

POINT = "balanced"


@dataclass(frozen=True)
class Stretch:
    """One segment and, where the operating point consults its exit, the exit's head.

    The last exit answers at any confidence: its threshold is -1.
    """

    exit: int
    segment: ort.InferenceSession
    outputs: tuple[str, ...]
    head: ort.InferenceSession | None
    head_inputs: tuple[str, ...]
    calibration_temperature: float
    threshold: float

    def run(self, features: Features) -> Features:
        return dict(zip(self.outputs, self.segment.run(None, features), strict=True))

    def exponentials(self, head: ort.InferenceSession, features: Features) -> NDArray[np.float32]:
        """The calibrated probabilities of each row, over that of its likeliest class."""
        (logits,) = head.run(None, {name: features[name] for name in self.head_inputs})
        scaled = logits / self.calibration_temperature
        relative: NDArray[np.float32] = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return relative


class Exits:
    """The network; rows of a batch leave it at the exit that answers them."""

    def __init__(self, bundle: Bundle) -> None:
        manifest, point = bundle.manifest, bundle.calibration.operating_points[POINT]
        self._measure = bundle.calibration.confidence
        self.read, self._labels = reader_of(bundle), manifest.labels
        self._stretches = [
            Stretch(
                exit=segment.exit,
                segment=session(bundle.graphs[segment.file]),
                outputs=tuple(tensor.name for tensor in segment.outputs),
                head=session(bundle.graphs[head.file]) if head.exit in point.consulted else None,
                head_inputs=tuple(tensor.name for tensor in head.inputs),
                calibration_temperature=fitted.calibration_temperature,
                threshold=-1.0 if threshold is None else threshold,
            )
            for segment, head, fitted, threshold in zip(
                manifest.segments,
                manifest.exit_heads,
                bundle.calibration.exits,
                point.thresholds,
                strict=True,
            )
        ]

    def answer(self, row: Features) -> Answer:
        (found,) = self.answers(row)
        return found

    def answers(self, features: Features) -> list[Answer]:
        rows = np.arange(len(next(iter(features.values()))))
        answers: list[Answer] = [{}] * len(rows)
        for stretch in self._stretches:
            features = stretch.run(features)
            if stretch.head is None:
                continue
            relative = stretch.exponentials(stretch.head, features)
            confidences = confidences_of(relative, self._measure)
            stops = confidences > stretch.threshold
            for row in np.flatnonzero(stops).tolist():
                answers[rows[row]] = self._answer(stretch, relative[row], confidences[row])
            if stops.all():
                break
            if stops.any():
                rows = rows[~stops]
                features = {name: tensor[~stops] for name, tensor in features.items()}
        return answers

    def _answer(
        self, stretch: Stretch, relative: NDArray[np.float32], confidence: np.float32
    ) -> Answer:
        index = int(relative.argmax())
        return {
            "index": index,
            "label": self._labels[index],
            "confidence": float(confidence),
            "exit": stretch.exit,
        }


def confidences_of(relative: NDArray[np.float32], measure: Measure) -> NDArray[np.float32]:
    """Of each row, from its probabilities over the largest one."""
    largest: NDArray[np.float32] = 1 / relative.sum(axis=1)
    if measure == "max_probability":
        return largest
    return largest * (1 - np.partition(relative, -2, axis=1)[:, -2])
