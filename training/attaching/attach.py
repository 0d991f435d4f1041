"""From a trained ONNX classifier and images to a bundle with exits."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.bundle.image_input import ImageInput
from models.bundle.runner import SegmentRunner
from models.bundle.text_input import TextInput
from training import tokenizing
from training.attaching.answers import (
    check_independence,
    check_last_exit,
    check_padding,
    own_scores,
)
from training.attaching.choose import WORTH_IT, Choice, choose
from training.attaching.cut import Place, candidates, classifier, named, places
from training.attaching.eight_bits import in_eight_bits
from training.attaching.errors import AttachError
from training.attaching.finish import Precision, chosen_graphs, write
from training.attaching.order import Order
from training.attaching.photos import (
    MIN_CALIBRATION,
    Parts,
    Photos,
    matched,
    open_parts,
    open_texts,
    unknown,
)
from training.attaching.preprocessing import Preprocessing
from training.attaching.program import Program, program
from training.attaching.read import Network, metadata_labels, parsed_labels, read, text_of
from training.attaching.reading import MASK
from training.attaching.text_program import text_program
from training.attaching.trial import Trial, runner_of, tried, typical_length, uncut
from training.data.errors import listed
from training.data.sources import vocabulary_of
from training.exporting.calibrate import halves
from training.exporting.writing import built_aside, free_place


def attach(order: Order) -> Path:
    """Writes the bundle and returns its path; raises UserError where none can be made."""
    place = free_place(order.zoo, order.name, order.version)
    network = read(order.model, order.options)
    print(f"{order.model}: {network.preprocessing}")
    cut_up, target, parts, tokenizer = opened(order, network)
    cuts, end = cuts_of(order, cut_up)
    rows = parts.calibration.decode(np.arange(MIN_CALIBRATION))
    expected = own_scores(network, rows)
    labels = labels_of(order, network, parts, expected.shape[1])
    parts = labelled(order, parts, labels)
    whole = runner_of(*uncut(cut_up, end))
    check_last_exit(network, whole.run(rows)[-1], expected)
    check_independence(whole, rows)
    if cut_up.is_of_texts:
        check_padding(whole, rows, rows[cut_up.inputs.index(MASK)])
    trial = tried(order, cut_up, cuts, end, parts)
    choice = choice_of(order, trial)
    if choice.saving < WORTH_IT and not order.is_forced:
        raise AttachError(
            f"exits would save {100 * max(choice.saving, 0):.0f} % of the network's time: not "
            "worth it; --exits K attaches K all the same"
        )
    graphs = chosen_graphs(cut_up, trial, choice, end)
    check_last_exit(network, SegmentRunner(*graphs).run(rows)[-1], expected)
    notes = in_words(network, trial, choice, parts.photos)
    precision: Precision = "float32"
    if order.int8:
        graphs, is_smaller, note = in_eight_bits(graphs, parts)
        precision, notes = "int8" if is_smaller else "float32", [*notes, note]
    with built_aside(place) as directory:
        if tokenizer:
            (directory / tokenizing.FILE).write_text(tokenizer)
        write(directory, order, graphs, precision, target, labels, parts, notes)
    return place


def opened(order: Order, network: Network) -> tuple[Program, ImageInput | TextInput, Parts, str]:
    """The network as nodes, what segment 1 takes, the data, and the tokenizer of texts."""
    preprocessing = network.preprocessing
    if isinstance(preprocessing, Preprocessing):
        target, cut_up = input_of(preprocessing), program(network)
        if order.int8 and any(node.op_type == "QuantizeLinear" for node in cut_up.nodes):
            raise AttachError(f"{order.model} is in 8 bits already; leave --int8 out")
        return cut_up, target, open_parts(order.data, target, order.seed), ""
    if order.int8:
        raise AttachError("--int8 is for images")
    tokenizer = tokenizing.read(preprocessing.tokenizer)
    texts, parts_of = open_texts(order.data, order.seed)
    text_input = tokenizing.target_of(tokenizer, texts, preprocessing.max_tokens, None)
    text_input = text_input.model_copy(update={"inputs": preprocessing.inputs})
    cut_up = text_program(network, vocabulary_of(tokenizer), text_input.length_buckets)
    return cut_up, text_input, parts_of(text_input, tokenizer), tokenizer


def cuts_of(order: Order, cut_up: Program) -> tuple[list[Place], Place]:
    """Where exits may go, in order, and where the last exit's head begins."""
    found = places(cut_up)
    end = classifier(found, cut_up)
    cuts = named(found, order.tensors) if order.tensors else candidates(cut_up, found)
    cuts = [place for place in cuts if place.index < end.index]
    if not cuts:
        raise AttachError("the network has no place where an exit could go")
    return cuts, end


def input_of(preprocessing: Preprocessing) -> ImageInput:
    size = {"height": preprocessing.height, "width": preprocessing.width}
    look = {"channels": preprocessing.channels, "resize": preprocessing.resize}
    return ImageInput.model_validate(size | look)


def labels_of(order: Order, network: Network, parts: Parts, num_classes: int) -> tuple[str, ...]:
    """From --labels, else the network's metadata, else the data's class names, else numbers."""
    names = parts.photos.names
    if order.labels is not None:
        labels = parsed_labels(text_of(order.labels), str(order.labels))
    elif (given := metadata_labels(network.original, order.model)) is not None:
        labels = given
    elif names is not None and len(names) == num_classes:
        labels = names
    else:
        labels = tuple(map(str, range(num_classes)))
    if len(labels) != num_classes:
        raise AttachError(
            f"the network has {num_classes} classes and needs as many labels, not {len(labels)}"
        )
    counts = Counter(labels)
    return tuple(
        label if counts[label] == 1 else f"{label} ({index})" for index, label in enumerate(labels)
    )


def labelled(order: Order, parts: Parts, labels: tuple[str, ...]) -> Parts:
    """The parts with labels that the network knows; those of the test split are reported on."""
    if order.uses_labels and (classes := unknown(parts.photos, labels)):
        print(f"the data's labels are not used: the network has no {listed(classes)}")
    photos, test = matched(parts.photos, labels), matched(parts.test, labels)
    return replace(
        parts, photos=photos if order.uses_labels else photos.without_labels(), test=test
    )


def choice_of(order: Order, trial: Trial) -> Choice:
    """The exits that pay, as many as were asked for; where cuts were named, all of them."""
    tuning, _ = halves(len(trial.logits[-1]))
    num_exits = len(trial.cuts) + 1 if order.tensors else order.num_exits
    return choose(trial.logits, trial.cost, trial.whole_s, tuning, num_exits)


def in_words(network: Network, trial: Trial, choice: Choice, trial_rows: Photos) -> list[str]:
    where = [trial.cuts[index] for index in choice.exits]
    shares = ", ".join(f"{100 * place.share:.0f} %" for place in where)
    lengths = typical_length(trial_rows)
    unit = f"a text of {lengths[0]} tokens" if lengths else "an image"
    return [
        f"{len(where)} exits were attached, after {shares} of the work, to a network that was "
        f"trained already ({network.preprocessing}); the last exit is the network itself.",
        f"Uncut, the network takes {1e3 * trial.whole_s:.2f} ms {unit} on one core; with these "
        f"exits a request at `balanced` was expected to take {1e3 * choice.expected_s:.2f} ms, "
        "the price of cuts and heads counted in.",
    ]
