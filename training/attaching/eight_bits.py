"""The graphs in 8 bits, where that is faster here and they answer alike."""

import numpy as np

from models.bundle.runner import SegmentRunner
from training.attaching.passes import logits_of
from training.attaching.photos import Photos
from training.attaching.trial import full_s, measured
from training.export import RANGE_ROWS
from training.quantize import MAX_ACCURACY_DROP, Graphs, quantized


def in_eight_bits(graphs: Graphs, photos: Photos) -> tuple[Graphs, bool, str]:
    """The 8-bit graphs, or those given if they are better; whether it is the former; and why.

    Judged on calibration images: by how often each exit agrees with the network as it was, and how
    long all segments take for one image.
    """
    (some,) = photos.decode(np.arange(min(RANGE_ROWS, photos.num_rows)))
    smaller = quantized(*graphs, some)
    runners = SegmentRunner(*graphs), SegmentRunner(*smaller)
    before, after = (logits_of(runner, photos, "comparing int8") for runner in runners)
    answers = before[-1].argmax(axis=1)
    losses = [
        float((x.argmax(axis=1) == answers).mean() - (y.argmax(axis=1) == answers).mean())
        for x, y in zip(before, after, strict=True)
    ]
    seconds, fewer = (full_s(measured(runner, "measuring int8")) for runner in runners)
    found = (
        f"8 bits take {1e3 * fewer:.2f} ms to the last exit where float32 takes "
        f"{1e3 * seconds:.2f} ms, and cost the exits up to {100 * max(losses):.1f} points of "
        "agreement with the network as it was"
    )
    if max(losses) > MAX_ACCURACY_DROP or fewer >= seconds:
        return graphs, False, f"{found}: float32 is kept."
    return smaller, True, f"{found}: 8 bits are kept."
