"""The graphs in 8 bits, where that is faster here and they answer alike."""

import onnx

from models.bundle.cost_profile import CostProfile
from models.bundle.runner import SegmentRunner
from training.attaching.passes import logits_of
from training.attaching.photos import Parts, Photos
from training.attaching.trial import full_s, measured
from training.exporting.calibrate import halves
from training.exporting.quantize import MAX_ACCURACY_DROP, Graphs, quantized, range_rows


def in_eight_bits(graphs: Graphs, parts: Parts) -> tuple[Graphs, bool, str]:
    """The 8-bit graphs, or those given if they are better; whether it is the former; and why.

    Graphs that are slower in 8 bits on this host stay in float32. The half of the calibration
    images that tunes judges how often each exit agrees with the network as it was; one image, how
    long all segments take.
    """
    tuning, _ = halves(parts.calibration.num_rows)
    (some,) = parts.photos.decode(range_rows(parts.learning))
    before = cost_of(graphs)
    smaller = quantized(*graphs, some)
    in_8_bits = files_in_8_bits(smaller)
    slower = slower_graphs(graphs, before, cost_of(smaller)) & in_8_bits
    if slower == in_8_bits:
        return graphs, False, "no graph is faster here in 8 bits: float32 is kept."
    if slower:
        smaller = quantized(*graphs, some, in_float=slower)
    losses = lost_agreement(graphs, smaller, parts.calibration.take(tuning))
    seconds, fewer = full_s(before), full_s(cost_of(smaller))
    found = (
        f"8 bits take {1e3 * fewer:.2f} ms to the last exit where float32 takes "
        f"{1e3 * seconds:.2f} ms, and cost the exits up to {100 * max(losses):.1f} points of "
        f"agreement with the network as it was ({len(slower)} of {len(in_8_bits)} graphs are "
        "slower in 8 bits here, and stay in float32)"
    )
    if max(losses) > MAX_ACCURACY_DROP or fewer >= seconds:
        return graphs, False, f"{found}: float32 is kept."
    return smaller, True, f"{found}: 8 bits are kept."


def cost_of(graphs: Graphs) -> CostProfile:
    return measured(SegmentRunner(*graphs), "measuring int8")


def files_in_8_bits(graphs: Graphs) -> set[str]:
    """Files of the graphs that hold anything in 8 bits; a graph of one Relu holds nothing."""
    return {
        file
        for file, content in graphs[2].items()
        if any(
            node.op_type == "QuantizeLinear"
            for node in onnx.load_model_from_string(content).graph.node
        )
    }


def slower_graphs(graphs: Graphs, before: CostProfile, after: CostProfile) -> set[str]:
    """Files of the graphs that take as long in 8 bits as in float32, or longer."""
    segments, heads, _ = graphs
    pairs = [
        *zip(segments, before.segments, after.segments, strict=True),
        *zip(heads, before.exit_heads, after.exit_heads, strict=True),
    ]
    return {graph.file for graph, old, new in pairs if new.median_s[0] >= old.median_s[0]}


def lost_agreement(graphs: Graphs, smaller: Graphs, photos: Photos) -> list[float]:
    """For each exit the share of answers that equal the network's, before less after."""
    before, after = (
        logits_of(SegmentRunner(*made), photos, "comparing int8") for made in (graphs, smaller)
    )
    answers = before[-1].argmax(axis=1)
    return [
        float((x.argmax(axis=1) == answers).mean() - (y.argmax(axis=1) == answers).mean())
        for x, y in zip(before, after, strict=True)
    ]
