"""Places where a network can be cut: few tensors cross, and every one has a row for each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from training.attaching.errors import AttachError
from training.attaching.fragments import CONVOLUTIONS, PRODUCTS, fragment, macs, mask_of
from training.attaching.program import Program
from training.attaching.rewriting import LOGITS
from training.exporting.graphs import ExportedGraph

MAX_TENSORS = 8
"""Tensors that may cross a cut: an MSDNet hands on one a scale, and those it will append to."""
MAX_CANDIDATES = 12
MAC_OF_NUMBER = 10
"""What it takes to write one number, in MACs: roughly true of one core's cache and memory."""
FIRST, LAST = 0.08, 0.95
"""Shares of the network between which exits are looked for."""


@dataclass(frozen=True)
class Place:
    """Between nodes: `index` is the first node behind it. `share` of the work lies before it."""

    index: int
    tensors: tuple[str, ...]
    share: float


def places(program: Program) -> list[Place]:
    """Every place where the network can be cut, in order."""
    made = dict.fromkeys(program.inputs, -1)
    last_use: dict[str, int] = {LOGITS: len(program.nodes)}
    known = program.known
    for index, node in enumerate(program.nodes):
        for name in node.input:
            if name and name not in known:
                last_use[name] = index
        made.update(dict.fromkeys(node.output, index))
    work = [node_work(program, index) for index in range(len(program.nodes))]
    total, before, crossing, found = sum(work), 0, set(program.inputs) & set(last_use), []
    for index in range(1, len(program.nodes)):
        before += work[index - 1]
        crossing |= {name for name in program.nodes[index - 1].output if name in last_use}
        crossing = {name for name in crossing if last_use[name] >= index}
        if len(crossing) <= MAX_TENSORS and crossing <= program.features:
            tensors = tuple(sorted(crossing, key=lambda name: made[name]))
            found.append(Place(index, tensors, before / total))
    return found


def node_work(program: Program, index: int) -> int:
    node = program.nodes[index]
    numbers = sum(prod(program.shapes[name]) for name in node.output if name in program.shapes)
    return macs(program, node) + MAC_OF_NUMBER * numbers


def candidates(program: Program, found: Sequence[Place]) -> list[Place]:
    """The best place of each of `MAX_CANDIDATES` equal parts of the work between FIRST and LAST.

    Best is where the fewest tensors cross, then the fewest numbers, then the last: behind an
    activation, not before it.
    """

    def badness(place: Place) -> tuple[int, int, int]:
        numbers = sum(prod(program.shapes[name]) for name in place.tensors)
        return len(place.tensors), numbers, -place.index

    width = (LAST - FIRST) / MAX_CANDIDATES
    parts: dict[int, list[Place]] = {}
    for place in found:
        if FIRST <= place.share < LAST:
            parts.setdefault(int((place.share - FIRST) / width), []).append(place)
    return [min(parts[part], key=badness) for part in sorted(parts)]


def named(found: Sequence[Place], tensors: Sequence[str]) -> list[Place]:
    """The places right behind which each of `tensors` is all that crosses, or one of the fewest."""
    chosen = []
    for name in tensors:
        there = [place for place in found if name in place.tensors]
        if not there:
            raise AttachError(f"the network cannot be cut at {name!r}")
        chosen.append(min(there, key=lambda place: (len(place.tensors), place.index)))
    return sorted(set(chosen), key=lambda place: place.index)


def classifier(found: Sequence[Place], program: Program) -> Place:
    """The place before the last matrix product: what follows it is the last exit's head."""
    products = [
        index
        for index, node in enumerate(program.nodes)
        if node.op_type in (*PRODUCTS, *CONVOLUTIONS)
    ]
    before = [place for place in found if place.index <= max(products, default=0)]
    if not before:
        raise AttachError("the network has no place where it could be cut")
    return before[-1]


def pieces(
    program: Program, cuts: Sequence[Place], end: Place
) -> tuple[list[ExportedGraph], ExportedGraph]:
    """A segment up to each cut, one up to `end`, and the last exit's head, the network's own."""
    segments = []
    start = 0
    inputs = program.inputs
    for exit, place in enumerate([*cuts, end], start=1):
        outputs = (*place.tensors, *([mask_of(exit)] if program.is_of_texts else []))
        segments.append(
            fragment(
                program,
                start,
                place.index,
                inputs,
                outputs,
                file=f"segment_{exit}.onnx",
                exit=exit,
            )
        )
        start, inputs = place.index, outputs
    head = fragment(
        program,
        start,
        len(program.nodes),
        inputs,
        (LOGITS,),
        file=f"exit_{len(segments)}.onnx",
        exit=len(segments),
    )
    return segments, head
