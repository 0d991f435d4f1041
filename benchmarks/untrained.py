"""A bundle of an untrained network, for benchmarks of which only the time matters."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.rivals.networks import Pixels
from models.bundle.calibration import Calibration, ExitCalibration, OperatingPoint
from models.bundle.image_input import ImageInput
from models.bundle.manifest import Provenance
from models.bundle.profile import measure
from models.bundle.records import SCHEMA_VERSION, Graph
from models.bundle.runner import SegmentRunner
from models.nets.multi_exit import MultiExitNet
from training.exporting import writing
from training.exporting.graphs import export_graphs
from training.fronts import ImageFront

BATCH_SIZES = (1, 2, 4)


def write_bundle(net: MultiExitNet, pixels: int, classes: int, place: Path) -> Path:
    """Every exit is consulted and none is ever confident enough, at the point `balanced`."""
    images = torch.from_numpy(random_images(pixels, 2))
    front = ImageFront(*(torch.full((3,), 0.5) for _ in range(2)))
    graphs = export_graphs(net, [images], front)
    place.mkdir(parents=True)
    writing.write_bundle(
        place,
        graphs,
        never_confident(*graphs[:2]),
        measure(SegmentRunner(*graphs), runs=3, max_s=5.0, batch_sizes=BATCH_SIZES),
        name=place.parent.name,
        version=int(place.name),
        input=ImageInput(height=pixels, width=pixels, channels=3),
        labels=[str(label) for label in range(classes)],
        provenance=Provenance(
            git_commit="", data="none", split="none", seed=0, epochs=1, config={}, packages={}
        ),
    )
    return place


def never_confident(segments: Sequence[Graph], heads: Sequence[Graph]) -> Calibration:
    exits = tuple(segment.exit for segment in segments)
    point = OperatingPoint(
        thresholds=(*[1.0] * (len(exits) - 1), None),
        consulted=exits,
        accuracy=0.0,
        mean_macs=float(sum(graph.macs for graph in (*segments, *heads))),
        exit_shares=(*[0.0] * (len(exits) - 1), 1.0),
    )
    fitted = tuple(
        ExitCalibration(exit=k, calibration_temperature=1.0, accuracy=0.0, ece_before=0.0, ece=0.0)
        for k in exits
    )
    return Calibration(
        schema_version=SCHEMA_VERSION,
        confidence="max_probability",
        num_rows=1,
        exits=fitted,
        operating_points={"balanced": point},
    )


def random_images(pixels: int, number: int) -> Pixels:
    """Soft patches of colour, (number, pixels, pixels, 3): as JPEG about as large as photos."""
    coarse = np.random.default_rng(0).integers(0, 256, (number, 3, pixels // 8, pixels // 8))
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse).float(), size=(pixels, pixels), mode="bilinear"
    )
    return smooth.byte().permute(0, 2, 3, 1).contiguous().numpy()
