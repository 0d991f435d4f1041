"""From outcomes to the protocol's outputs. Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from server.engine.job import Answer, Outcome
from server.http.numbers import Array
from server.http.wording import best_labels
from server.v2.response_schemas import OutputTensor
from server.v2.tensors import datatype_of, texts, to_bytes, to_json
from server.v2.wanted import Wanted

Labels = Sequence[str]


class Answered(Protocol):
    """An outcome, or what one exit said before there is one."""

    @property
    def answer(self) -> Answer: ...


Outcomes = Sequence[Answered]


def probabilities(outcomes: Outcomes, _: Labels) -> Array:
    return np.stack([outcome.answer.probabilities for outcome in outcomes])


def label(outcomes: Outcomes, labels: Labels) -> Array:
    return texts([labels[int(o.answer.probabilities.argmax())] for o in outcomes])


def exit(outcomes: Outcomes, _: Labels) -> Array:
    return np.array([outcome.answer.exit for outcome in outcomes], np.int32)


def confidence(outcomes: Outcomes, _: Labels) -> Array:
    return np.array([outcome.answer.confidence for outcome in outcomes], np.float32)


def stop_reason(outcomes: Sequence[Outcome], _: Labels) -> Array:
    return texts([outcome.stop_reason.value for outcome in outcomes])


OF_ANSWERS: dict[str, Callable[[Outcomes, Labels], Array]] = {
    function.__name__: function for function in (probabilities, label, exit, confidence)
}
"""One row of each per image, exits numbered from 1."""


def classified(outcomes: Outcomes, labels: Labels, num_classes: int) -> Array:
    """The most probable labels as `probability:index:label`, (rows, num_classes)."""
    return texts(
        [
            [
                f"{outcome.answer.probabilities[index]:f}:{index}:{labels[index]}"
                for index in best_labels(outcome.answer.probabilities, num_classes)
            ]
            for outcome in outcomes
        ]
    )


def array_of(wanted: Wanted, outcomes: Sequence[Outcome], labels: Labels) -> Array:
    """One row per outcome."""
    if wanted.name == stop_reason.__name__:
        return stop_reason(outcomes, labels)
    return array_of_answers(wanted, outcomes, labels)


def array_of_answers(wanted: Wanted, outcomes: Outcomes, labels: Labels) -> Array:
    """The same of any output but the stop reason, which an answer does not have yet."""
    if wanted.classification is None:
        return OF_ANSWERS[wanted.name](outcomes, labels)
    return classified(outcomes, labels, wanted.classification)


def output(
    wanted: Wanted, outcomes: Sequence[Outcome], labels: Labels
) -> tuple[OutputTensor, bytes | None]:
    """A response's output, and what follows the JSON where it is binary."""
    array = array_of(wanted, outcomes, labels)
    content = to_bytes(array) if wanted.is_binary else None
    tensor = OutputTensor(
        name=wanted.name,
        datatype=datatype_of(array),
        shape=list(array.shape),
        data=to_json(array) if content is None else None,
        parameters=None if content is None else {"binary_data_size": len(content)},
    )
    return tensor, content
