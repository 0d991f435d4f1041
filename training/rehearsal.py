"""What export would refuse, tried on a few images before the first epoch."""

from copy import deepcopy

import torch
from torch import Tensor

from models.bundle.runner import SegmentRunner
from models.nets.multi_exit import MultiExitNet, NetError
from models.nets.own import introduced
from models.nets.presets import PRESETS
from training.augment import normalised
from training.data import DataError
from training.export import PARITY_ROWS
from training.graphs import check_independence, check_parity, export_graphs, run_all
from training.run import Run

NUM_IMAGES = 4


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
    if run.config.net in PRESETS:
        return
    rows = run.splits.calibration[:NUM_IMAGES]
    images = run.data.train.take(rows).images
    net = deepcopy(run.net).cpu().eval()
    mean, std = run.mean.cpu(), run.std.cpu()
    with torch.no_grad(), introduced(run.config.net):
        check_contract(net, normalised(images, mean, std), len(run.data.train.names))
        expected = net(normalised(images, mean, std))
    exported = export_graphs(net, images, mean, std)
    segments, heads = ([graph.entry for graph in graphs] for graphs in exported)
    content = {graph.entry.file: graph.content for graphs in exported for graph in graphs}
    runner = SegmentRunner(segments, heads, content)
    check_parity(expected, run_all(runner, images.numpy()))
    check_independence(runner, images.numpy())


def check_contract(net: MultiExitNet, images: Tensor, num_classes: int) -> None:
    """Raises NetError where a segment or an exit head returns something else than it must."""
    features: object = [images]
    for exit, (segment, head) in enumerate(net.split(), start=1):
        features = segment(features)
        if not isinstance(features, list) or not all(isinstance(x, Tensor) for x in features):
            raise NetError(
                f"segment {exit} returns {kind(features)}; features must be a list of tensors"
            )
        for x in features:
            if x.dtype != torch.float32 or x.shape[:1] != images.shape[:1]:
                raise NetError(
                    f"segment {exit} returns features of {x.dtype} and shape {list(x.shape)}; they "
                    f"must be float32, the batch first: {len(images)}"
                )
        logits = head(features)
        shape = [len(images), num_classes]
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
