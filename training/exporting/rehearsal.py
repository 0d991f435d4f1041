"""What export would refuse, tried on a few rows before the first epoch."""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from models.bundle.runner import SegmentRunner
from models.nets.multi_exit import Features, MultiExitNet, NetError
from models.nets.own import introduced
from models.nets.presets import PRESETS
from training.data import DataError
from training.exporting.export import PARITY_ROWS
from training.exporting.graphs import check_logits, export_graphs
from training.exporting.lengths import lengths_of
from training.fronts import front_of
from training.run import Run

NUM_ROWS = 4
DTYPES = (torch.float32, torch.int64)
"""Of features; whole numbers are what a text's mask is made of."""


def rehearse(run: Run) -> None:
    """Refuses a run that could not be exported, in seconds.

    Raises NetError, ExportError or DataError. Networks that come with Offramp are exported by its
    tests; of others every graph is made. What the user's own code raises is let through.
    """
    num_rows = len(run.splits.calibration)
    if num_rows < PARITY_ROWS:
        raise DataError(
            f"{num_rows} rows are kept for calibration, export needs {PARITY_ROWS}: raise "
            "calibration_per_class or calibration_share"
        )
    lengths_of(run.data.test, np.arange(len(run.data.test.labels)))  # reads the tokens of texts
    if run.config.net in PRESETS:
        return
    inputs = run.data.train.take(run.splits.calibration[:NUM_ROWS]).inputs
    net = deepcopy(run.net).cpu().eval()
    front = front_of(run.data.train.target, run.mean.cpu(), run.std.cpu())
    ready = front.prepared(inputs)
    with torch.no_grad(), introduced(run.config.net):
        check_contract(net, ready, len(run.data.train.names))
        expected = net(*ready)
    check_logits(SegmentRunner(*export_graphs(net, inputs, front)), inputs, expected)


def check_contract(net: MultiExitNet, inputs: Features, num_classes: int) -> None:
    """Raises NetError where a segment or an exit head returns something else than it must."""
    features: object = inputs
    num_rows = len(inputs[0])
    for exit, (segment, head) in enumerate(net.split(), start=1):
        features = segment(features)
        if not isinstance(features, list) or not all(isinstance(x, Tensor) for x in features):
            raise NetError(
                f"segment {exit} returns {kind(features)}; features must be a list of tensors"
            )
        for x in features:
            if x.dtype not in DTYPES or x.shape[:1] != (num_rows,):
                raise NetError(
                    f"segment {exit} returns features of {x.dtype} and shape {list(x.shape)}; they "
                    f"must be float32, the batch first: {num_rows}"
                )
        logits = head(features)
        shape = [num_rows, num_classes]
        if not isinstance(logits, Tensor) or list(logits.shape) != shape:
            found = list(logits.shape) if isinstance(logits, Tensor) else kind(logits)
            raise NetError(
                f"exit head {exit} returns {found}, not {shape}: one logit for each of the "
                f"{num_classes} classes"
            )


def kind(value: object) -> str:
    """The type of a value in words, with the types of its items."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {', '.join(type(x).__name__ for x in value)}"
    return f"a {type(value).__name__}"
