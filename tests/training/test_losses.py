"""The losses against the formulas, computed here by hand with numpy in float64."""

from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.losses import (
    UNLABELLED,
    annealed,
    distillation_loss,
    exit_wise_loss,
    mean_confidence,
    reachable,
    softened,
)

LOGITS = np.array(
    [
        [[1.0, -2.0, 0.5], [0.0, 0.3, -0.7]],
        [[2.0, 0.1, -1.0], [-0.4, 1.0, 0.2]],
        [[3.0, -1.0, 0.0], [0.5, 2.0, -1.5]],
    ]
)
"""(exits, rows, classes)."""
LABELS = np.array([0, 2])


def tensors(requires_grad: bool = False) -> list[Tensor]:
    return [torch.tensor(z, requires_grad=requires_grad) for z in LOGITS]


def softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(z)
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def cross_entropy(z: NDArray[np.float64]) -> float:
    return float(-np.log(softmax(z)[[0, 1], LABELS]).mean())


def imitation(z: NDArray[np.float64], temperature: float) -> float:
    """Cross-entropy of a student's softened prediction against the last exit's."""
    teacher, student = softmax(LOGITS[-1] / temperature), softmax(z / temperature)
    return float(-(teacher * np.log(student)).sum(axis=1).mean())


def gradients(loss: Tensor, logits: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, logits))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_loss_is_the_published_formula(temperature: float) -> None:
    classification = sum(0.5 * cross_entropy(z) for z in LOGITS)
    distillation = sum(0.5 * temperature**2 * imitation(z, temperature) for z in LOGITS[:-1])
    expected = 10 / 3 * (classification + distillation)
    loss = distillation_loss(tensors(), torch.tensor(LABELS), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_exit_wise_loss_is_the_sum_of_cross_entropies() -> None:
    expected = sum(cross_entropy(z) for z in LOGITS)
    loss = exit_wise_loss(tensors(), torch.tensor(LABELS))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_a_single_exit_has_nothing_to_imitate() -> None:
    (*_, last), labels = tensors(), torch.tensor(LABELS)
    loss = distillation_loss([last], labels, 3.0)
    assert loss.item() == pytest.approx(5 * cross_entropy(LOGITS[-1]), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_of_the_students_are_those_of_the_loss(temperature: float) -> None:
    first, second, last = tensors(requires_grad=True)
    labels = torch.tensor(LABELS)

    def loss(*students: Tensor) -> Tensor:
        return distillation_loss([*students, last.detach()], labels, temperature)

    assert torch.autograd.gradcheck(loss, (first, second))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_students_gradient_by_hand(temperature: float) -> None:
    """10/M times half of (p - y) and half of tau (p_tau - q_tau), averaged over two rows."""
    logits = tensors(requires_grad=True)
    found = gradients(distillation_loss(logits, torch.tensor(LABELS), temperature), logits)
    teacher = softmax(LOGITS[-1] / temperature)
    for z, gradient in zip(LOGITS[:-1], found[:-1], strict=True):
        classification = softmax(z) - np.eye(3)[LABELS]
        distillation = temperature * (softmax(z / temperature) - teacher)
        expected = 10 / 3 * 0.5 * (classification + distillation) / 2
        assert gradient.numpy() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_teacher_learns_from_labels_alone(temperature: float) -> None:
    logits = tensors(requires_grad=True)
    found = gradients(distillation_loss(logits, torch.tensor(LABELS), temperature), logits)
    expected = 10 / 3 * 0.5 * (softmax(LOGITS[-1]) - np.eye(3)[LABELS]) / 2
    assert found[-1].numpy() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_step_at_rate_a_tenth_is_the_papers_at_a_half(temperature: float) -> None:
    """The paper divides both sums by the number of exits, without weights."""
    logits, labels = tensors(requires_grad=True), torch.tensor(LABELS)
    ours = gradients(distillation_loss(logits, labels, temperature), logits)
    teacher = torch.softmax(logits[-1].detach() / temperature, dim=1)
    paper = sum((F.cross_entropy(z, labels) for z in logits), torch.zeros(()))
    for z in logits[:-1]:
        paper = paper + temperature**2 * F.cross_entropy(z / temperature, teacher)
    papers = gradients(paper / 3, logits)
    for our_step, paper_step in zip(ours, papers, strict=True):
        torch.testing.assert_close(0.1 * our_step, 0.5 * paper_step)


def test_softened_divides_the_logits() -> None:
    z = torch.tensor([[log(9.0), 0.0]])
    assert softened(z, 1.0)[0].tolist() == pytest.approx([0.9, 0.1])
    assert softened(z, 2.0)[0].tolist() == pytest.approx([0.75, 0.25])


def test_all_later_exits_teach_with_their_mean() -> None:
    """The cross-entropy against the mean of the teachers is the mean over the teachers."""
    temperature = 2.0
    first, second, last = (softmax(z / temperature) for z in LOGITS)
    of_first = sum(-(t * np.log(first)).sum(axis=1).mean() for t in (second, last)) / 2
    of_second = -(last * np.log(second)).sum(axis=1).mean()
    classification = sum(0.5 * cross_entropy(z) for z in LOGITS)
    expected = 10 / 3 * (classification + 0.5 * temperature**2 * (of_first + of_second))
    loss = distillation_loss(tensors(), torch.tensor(LABELS), temperature, "all-later")
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_ensemble_teaches_every_exit_but_the_last(temperature: float) -> None:
    teacher = np.mean([softmax(z / temperature) for z in LOGITS], axis=0)
    students = [softmax(z / temperature) for z in LOGITS[:-1]]
    distillation = sum(-(teacher * np.log(p)).sum(axis=1).mean() for p in students)
    classification = sum(cross_entropy(z) for z in LOGITS)
    expected = 10 / 3 * 0.5 * (classification + temperature**2 * distillation)
    loss = distillation_loss(tensors(), torch.tensor(LABELS), temperature, "ensemble")
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_another_networks_logits_teach_every_exit_the_last_too(temperature: float) -> None:
    theirs = np.array([[0.2, 1.5, -1.0], [2.0, 0.0, 0.7]])
    teacher = softmax(theirs / temperature)
    students = [softmax(z / temperature) for z in LOGITS]
    distillation = sum(-(teacher * np.log(p)).sum(axis=1).mean() for p in students)
    classification = sum(cross_entropy(z) for z in LOGITS)
    expected = 10 / 3 * 0.5 * (classification + temperature**2 * distillation)
    loss = distillation_loss(
        tensors(), torch.tensor(LABELS), temperature, teacher_logits=torch.tensor(theirs)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_smoothing_spreads_a_share_of_the_label_over_all_classes() -> None:
    target = 0.9 * np.eye(3)[LABELS] + 0.1 / 3
    expected = sum(-(target * np.log(softmax(z))).sum(axis=1).mean() for z in LOGITS)
    labels = torch.tensor(LABELS)
    smoothed = exit_wise_loss(tensors(), labels, label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(expected, rel=1e-12)
    change = distillation_loss(tensors(), labels, 2.0, label_smoothing=0.1)
    change = change - distillation_loss(tensors(), labels, 2.0)
    plain = exit_wise_loss(tensors(), labels)
    assert change.item() == pytest.approx(10 / 3 * 0.5 * (expected - plain.item()), rel=1e-10)


def test_unlabelled_rows_have_no_smoothed_label() -> None:
    labels = torch.tensor(LABELS)
    labels[0] = UNLABELLED
    rest = [z[1:] for z in tensors()]
    found = exit_wise_loss(tensors(), labels, label_smoothing=0.1)
    assert found.item() == pytest.approx(
        exit_wise_loss(rest, labels[1:], label_smoothing=0.1).item(), rel=1e-12
    )
    none = exit_wise_loss(tensors(), torch.full_like(labels, UNLABELLED), label_smoothing=0.1)
    assert none.item() == 0


def test_no_teacher_learns_from_its_students() -> None:
    logits = tensors(requires_grad=True)
    for teachers, expected in (
        ("last", [True, True, False]),
        ("all-later", [True, True, False]),
        ("ensemble", [True, True, False]),
    ):
        imitation = distillation_loss(logits, torch.tensor(LABELS), 2.0, teachers)  # type: ignore[arg-type]
        imitation = imitation - 5 / 3 * exit_wise_loss(logits, torch.tensor(LABELS))
        moves = [bool(g.abs().max() > 1e-12) for g in gradients(imitation, logits)]
        assert moves == expected
    first, second, _ = logits
    second_alone = distillation_loss([second, logits[-1]], torch.tensor(LABELS), 2.0)
    with_student = distillation_loss([first, second, logits[-1]], torch.tensor(LABELS), 2.0)
    scale = (10 / 2) / (10 / 3)
    (alone,), (beside,) = (
        torch.autograd.grad(loss, [second]) for loss in (second_alone, with_student)
    )
    assert torch.allclose(alone, scale * beside)


def test_unlabelled_rows_are_imitated_but_not_classified() -> None:
    temperature = 2.0
    labels = torch.tensor([LABELS[0], UNLABELLED])
    classification = sum(-0.5 * np.log(softmax(z)[0, LABELS[0]]) for z in LOGITS)
    distillation = sum(0.5 * temperature**2 * imitation(z, temperature) for z in LOGITS[:-1])
    loss = distillation_loss(tensors(), labels, temperature)
    assert loss.item() == pytest.approx(10 / 3 * (classification + distillation), rel=1e-12)
    logits = tensors(requires_grad=True)
    *students, last = gradients(distillation_loss(logits, labels, temperature), logits)
    assert all(student[1].abs().max() > 1e-3 for student in students)
    assert last[1].abs().max() == 0


def test_the_scaled_loss_takes_the_papers_step() -> None:
    """Learning rate 0.1 on our scale is 0.5 on the paper's mean over exits of CE plus imitation."""
    temperature, labels, logits = 2.0, torch.tensor(LABELS), tensors(requires_grad=True)
    teacher = softened(logits[-1].detach(), temperature)
    terms = [F.cross_entropy(z, labels) for z in logits]
    terms += [temperature**2 * F.cross_entropy(z / temperature, teacher) for z in logits[:-1]]
    paper = torch.stack(terms).sum() / len(logits)
    ours = distillation_loss(logits, labels, temperature)
    steps = zip(gradients(paper, logits), gradients(ours, logits), strict=True)
    assert all(torch.allclose(0.5 * paper_step, 0.1 * our_step) for paper_step, our_step in steps)


def test_temperature_over_a_recorded_run() -> None:
    """A gap of g between two classes' logits has confidence 1 / (1 + exp(-g / temperature))."""
    gaps_and_rises = [(0.5, 0), (2.1, 1), (2.05, 1), (2.2, 2), (2.15, 2), (2.4, 3), (0.0, 3)]
    temperature, num_rises = torch.tensor(1.0, dtype=torch.float64), 0
    for gap, expected in gaps_and_rises:
        is_confident = 1 / (1 + exp(-gap / 1.05**num_rises)) > 0.88
        assert num_rises + is_confident == expected
        confidence = mean_confidence(torch.tensor([[gap, 0.0]] * 4), temperature)
        temperature = annealed(temperature, confidence, 0.88)
        num_rises = expected
        assert temperature.item() == pytest.approx(1.05**num_rises)


def test_confidence_is_the_mean_over_the_batch() -> None:
    sure, unsure = [log(9.0), 0.0], [0.0, 0.0]  # 0.9 and 0.5
    logits = 2 * torch.tensor([sure, unsure])
    assert mean_confidence(logits, 2.0).item() == pytest.approx(0.7)


@pytest.mark.parametrize(("num_classes", "target"), [(100, 0.5), (1000, 0.1), (10, 0.18), (3, 0.5)])
def test_a_target_well_above_an_even_guess_is_taken_as_it_is(
    num_classes: int, target: float
) -> None:
    """The paper's: 0.5 of 100 classes and 0.1 of 1000."""
    assert reachable(target, num_classes) == target


@pytest.mark.parametrize(("num_classes", "target", "end"), [(2, 0.5, 0.75), (10, 0.1, 0.15)])
def test_temperature_ends_where_the_target_is_no_more_than_an_even_guess(
    num_classes: int, target: float, end: float
) -> None:
    """One logit of 8, the others 0, have confidence e / (e + classes - 1), e = exp(8 / tau)."""
    logits = torch.tensor([[8.0, *[0.0] * (num_classes - 1)]] * 4)
    temperature = torch.tensor(1.0, dtype=torch.float64)
    for _ in range(300):
        confidence = mean_confidence(logits, temperature)
        temperature = annealed(temperature, confidence, reachable(target, num_classes))
    last = 8 / log((num_classes - 1) * end / (1 - end))
    assert last <= temperature.item() < 1.05 * last


@given(st.floats(1, 50), st.floats(0, 1), st.floats(0.01, 0.99))
def test_temperature_rises_by_one_factor_above_the_target_and_never_falls(
    temperature: float, confidence: float, target: float
) -> None:
    before = torch.tensor(temperature, dtype=torch.float64)
    after = annealed(before, torch.tensor(confidence, dtype=torch.float64), target)
    assert after.item() == (temperature * 1.05 if confidence > target else temperature)
