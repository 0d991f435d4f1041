"""What the network itself says, asked as it was before it was cut."""

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from models.bundle.confidence import Floats, calibrated_probabilities
from models.bundle.defaults import CPU
from models.bundle.runner import Arrays, SegmentRunner
from training.attaching.errors import AttachError
from training.attaching.program import session_options
from training.attaching.read import Network, inputs_of
from training.attaching.reading import IDS, MASK, Reading

TOLERANCE = 1e-3
"""Largest difference of a logit or probability, as a share of the largest there is."""
HALF_TOLERANCE = 3e-2
"""The same where the network computes in float16, and its exits in float32, or in 8 bits."""
NUM_ALONE = 4
"""Rows that are also asked about alone."""


class Original:
    """The file as it came, in onnxruntime, with images normalised in front of it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.inputs = inputs_of(network.original)
        self.session = ort.InferenceSession(
            network.original.SerializeToString(),
            session_options(ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
            providers=[CPU],
        )

    def __call__(self, inputs: Arrays) -> Floats:
        """Its output, (rows, classes), for what segment 1 takes.

        The last of several fixed batches is filled up with rows from the first on. Raises
        AttachError for several scores of a class, such as one of every pixel, and for texts that
        hold what the network takes for padding.
        """
        prepared, num_rows = self.prepared(inputs), len(inputs[0])
        step = self.network.fixed_batch or num_rows
        num_batches = -(-num_rows // step)
        index = np.arange(num_batches * step) % num_rows
        outputs = [
            self.session.run([self.network.output], {n: x[rows] for n, x in prepared.items()})[0]
            for rows in np.split(index, num_batches)
        ]
        scores = np.concatenate(outputs)
        flat = scores.reshape(len(index), -1)
        if flat.shape[1] > max(scores.shape[1:], default=1):
            each = " x ".join(map(str, scores.shape[1:]))
            raise AttachError(f"the network gives {each} scores; exits need one for each class")
        return flat[:num_rows].astype(np.float32)

    def prepared(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        preprocessing = self.network.preprocessing
        if isinstance(preprocessing, Reading):
            given: dict[str, NDArray[np.generic]]
            given = dict(zip(preprocessing.inputs, inputs, strict=True))
            padding = self.network.padding
            if padding is not None:
                if np.any((given[IDS] == padding) & (given[MASK] != 0)):
                    raise AttachError(
                        f"the network takes token {padding} for padding, and texts hold it; export "
                        "it with a pad_token_id that no text holds"
                    )
                given[IDS] = np.where(given[MASK], given[IDS], padding)
            return given
        (image,), (images,) = self.inputs, inputs
        pixels: NDArray[np.generic] = images
        if not preprocessing.is_raw:
            mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
            is_half = image.type.tensor_type.elem_type == TensorProto.FLOAT16
            pixels = ((images / 255 - mean) / std).astype(np.float16 if is_half else np.float32)
        if preprocessing.channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        return {image.name: np.ascontiguousarray(pixels)}


def own_scores(network: Network, inputs: Arrays) -> Floats:
    """What the network itself says of some rows; raises AttachError where exits could not say it.

    Probabilities taken for logits would give other probabilities: of two classes, at most 0.73.
    """
    scores = Original(network)(inputs)
    if scores.shape[1] < 2:
        raise AttachError("the network gives one score; exits need one for each of two classes")
    if not network.gives_probabilities and scores.min() >= 0 and scores.max() <= 1:
        raise AttachError(
            "the network's scores are all from 0 to 1, as behind a sigmoid, and no softmax makes "
            "them; export it with logits as its output"
        )
    return scores


def check_last_exit(network: Network, logits: Floats, expected: Floats) -> float:
    """The largest difference between the last exit and the network itself; raises AttachError."""
    found = calibrated_probabilities(logits, 1.0) if network.gives_probabilities else logits
    if expected.shape != found.shape:
        raise AttachError(
            f"the network gives {expected.shape[1]} scores, its exits {found.shape[1]}"
        )
    difference = float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))
    allowed = HALF_TOLERANCE if network.is_coarse else TOLERANCE
    if not difference <= allowed:
        raise AttachError(
            f"taken apart, the network answers differently: by {difference:.2g} of its largest "
            f"score, {allowed} is allowed"
        )
    return difference


def check_independence(runner: SegmentRunner, rows: Arrays) -> None:
    """Raises AttachError where a row's scores depend on the batch that it is in."""
    together = runner.run(rows)[-1][:NUM_ALONE]
    alone = [runner.run([x[row : row + 1] for x in rows])[-1] for row in range(len(together))]
    if differ(together, np.concatenate(alone)):
        raise AttachError(
            "the network scores a row otherwise in another batch, as one does that was quantized "
            "dynamically or exported in training mode; attach exits to the float32 network, "
            "exported after eval()"
        )


def check_padding(runner: SegmentRunner, rows: Arrays, mask: NDArray[np.int64]) -> None:
    """Raises AttachError where the shortest texts of more than one token have other scores alone.

    Alone they have no padding.
    """
    num_tokens = mask.sum(axis=1)
    shortest = [row for row in np.argsort(num_tokens) if num_tokens[row] > 1][:NUM_ALONE]
    together = runner.run(rows)[-1][shortest]
    alone = [runner.run([x[row : row + 1, mask[row] == 1] for x in rows])[-1] for row in shortest]
    if alone and differ(together, np.concatenate(alone)):
        raise AttachError(
            "the network scores a text otherwise with more padding; export it with a pad_token_id "
            "and with attention_mask in use, and let tokenizer.json pad on the right"
        )


def differ(logits: Floats, others: Floats) -> bool:
    """Whether the same rows have other scores, NaN among them."""
    allowed = TOLERANCE * max(1.0, float(np.abs(logits).max()))
    return not np.abs(logits - others).max() <= allowed
