"""The bundle's `calibration.json`: temperatures, operating points and certificates."""

from base64 import b64encode
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Base64Bytes, Field, PositiveInt, model_validator

from models.bundle.confidence import Measure
from models.bundle.records import Probability, Record

CALIBRATION = "calibration.json"
MAX_UINT16 = 65535

JudgedBy = Literal["labels", "last_exit"]
"""What says that an answer is right."""


class ExitCalibration(Record):
    """One exit on the calibration split, before and after its calibration temperature."""

    exit: PositiveInt
    calibration_temperature: float = Field(gt=0)
    accuracy: Probability
    ece_before: Probability
    ece: Probability


class Certificate(Record):
    """What stopping early costs at most, promised by rows that had no part in the choice.

    With `holds_with_probability`, over the draw of those `num_rows` rows, the expected accuracy is
    within `max_accuracy_drop` of the last exit's; with that probability, too, at most the share
    `max_disagreement` of the answers differ from the last exit's, None where that was not measured.
    Requests that a deadline, an energy budget or an exit limit stops are outside the promise.
    """

    max_accuracy_drop: Probability
    max_disagreement: Probability | None = None
    holds_with_probability: Probability
    num_rows: PositiveInt


class OperatingPoint(Record):
    """Thresholds and the exits worth consulting, with what they gave on the calibration split.

    `thresholds[k - 1]` is exit k's; the last exit has none. `exit_shares` is the share of rows
    that stopped at each exit, `mean_macs` counts the heads that ran. Bundles exported before there
    were certificates have None.
    """

    thresholds: tuple[Probability | None, ...]
    consulted: tuple[PositiveInt, ...] = Field(min_length=1)
    accuracy: Probability
    mean_macs: float
    exit_shares: tuple[Probability, ...]
    certificate: Certificate | None = None


class CalibrationRows(Record):
    """What every exit said of every calibration row, for simulations: base64, row by row.

    `confidences` are little-endian 16-bit integers, 65535 for 1; `is_right` is one byte each.
    `lengths` are the rows' length buckets, little-endian 16-bit integers; None where rows have one
    size, and in bundles of texts exported before they were kept.
    """

    confidences: Base64Bytes
    is_right: Base64Bytes
    lengths: Base64Bytes | None = None

    @classmethod
    def of(
        cls,
        confidences: NDArray[np.floating],
        is_right: NDArray[np.bool_],
        lengths: NDArray[np.int64] | None = None,
    ) -> Self:
        """From (rows, exits) arrays, and the length bucket of every row where they have one."""
        scaled = np.rint(confidences * MAX_UINT16).astype("<u2")
        return cls(
            confidences=b64encode(scaled.tobytes()),
            is_right=b64encode(is_right.astype(np.uint8).tobytes()),
            lengths=None if lengths is None else b64encode(lengths.astype("<u2").tobytes()),
        )

    def arrays(self, num_exits: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Confidences in [0, 1] and whether each answer was right, (rows, exits)."""
        scaled = np.frombuffer(self.confidences, "<u2").reshape(-1, num_exits)
        is_right = np.frombuffer(self.is_right, np.uint8).reshape(-1, num_exits)
        return scaled / MAX_UINT16, is_right.astype(np.bool_)

    @property
    def buckets(self) -> NDArray[np.int64] | None:
        """The length bucket of every row."""
        if self.lengths is None:
            return None
        return np.frombuffer(self.lengths, "<u2").astype(np.int64)


class Calibration(Record):
    """Everything fitted on the calibration split.

    An answer is right where it equals what `judged_by` names: the row's label, or without labels
    the last exit's answer. In that case every `accuracy` is agreement with the last exit.
    `confidence` is what thresholds are compared with. `rows` is None in bundles exported before
    there were simulations.
    """

    schema_version: Literal[1]
    judged_by: JudgedBy = "labels"
    confidence: Measure
    num_rows: PositiveInt
    exits: tuple[ExitCalibration, ...]
    operating_points: dict[Annotated[str, Field(pattern=r"^[a-z_]+$")], OperatingPoint] = Field(
        min_length=1
    )
    rows: CalibrationRows | None = None

    @model_validator(mode="after")
    def _one_entry_per_exit(self) -> Self:
        num_exits = len(self.exits)
        if [e.exit for e in self.exits] != list(range(1, num_exits + 1)):
            raise ValueError(f"exits must be numbered 1 to {num_exits}, in order")
        if self.rows is not None:
            num_values = self.num_rows * num_exits
            sizes = len(self.rows.confidences), len(self.rows.is_right)
            if sizes != (2 * num_values, num_values):
                raise ValueError(f"rows must have {self.num_rows} rows of {num_exits} exits")
            if self.rows.lengths is not None and len(self.rows.lengths) != 2 * self.num_rows:
                raise ValueError(f"rows must have {self.num_rows} lengths, or none")
        for name, point in self.operating_points.items():
            is_given = [threshold is not None for threshold in point.thresholds]
            if is_given != [True] * (num_exits - 1) + [False]:
                raise ValueError(f"{name} must have a threshold for every exit but the last")
            if len(point.exit_shares) != num_exits:
                raise ValueError(f"{name} must have an exit share for every exit")
            consulted = sorted(set(point.consulted))
            if list(point.consulted) != consulted or consulted[-1] != num_exits:
                raise ValueError(f"{name} must consult exits in order, the last one last")
        return self
