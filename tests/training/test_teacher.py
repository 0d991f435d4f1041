"""A run that is taught by an earlier run's network."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.training.runs import CONFIG, run_of
from training import checkpoint
from training.augment import normalised
from training.checkpoint import CheckpointError
from training.config import TrainConfig
from training.losses import distillation_loss
from training.run import BEST, LAST
from training.teacher import Teacher

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_teacher_answers_as_its_own_run_did_whatever_normalises_its_student(
    uninterrupted: Path,
) -> None:
    saved = checkpoint.load(uninterrupted / BEST)
    net = saved.network()
    images = torch.randint(0, 256, (5, 8, 8, 1), dtype=torch.uint8)
    own = torch.tensor(saved.mean), torch.tensor(saved.std)
    students = torch.tensor([0.1]), torch.tensor([0.7])
    with torch.no_grad():
        expected = net(normalised(images, *own))[-1]
    found = Teacher(net, *own, *students).logits([normalised(images, *students)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_exit_learns_from_the_last_exit_of_the_run_that_teaches(
    uninterrupted: Path, tmp_path: Path
) -> None:
    """A student of another kind; the temperature rises by the teacher's confidence."""
    run = run_of(tmp_path, teacher=str(uninterrupted), net="vit-tiny", distillation_confidence=0.18)
    run.set_training()
    (part,) = run.feed.parts(run.feed.order(), 0, 0)
    assert run.teacher is not None
    theirs = run.teacher.logits(part.inputs)
    assert theirs.softmax(1).amax(1).mean() > 0.18
    logits = run.net(*part.inputs)
    expected = distillation_loss(logits, part.labels, 1.0, teacher_logits=theirs)
    assert logits[-1].softmax(1).amax(1).mean() < 0.18
    run.learn([part], rate=0.01)
    assert run.loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert run.distillation_temperature.item() == 1.05
    assert all(not p.requires_grad or p.grad is None for p in teacher_net(run.teacher).parameters())


def teacher_net(teacher: Teacher) -> torch.nn.Module:
    assert isinstance(teacher.forward, torch.nn.Module)
    return teacher.forward


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 1}, "has learned from rows that are to be kept apart$"),
        ({"teacher": "nowhere"}, "^no checkpoint at nowhere/best.pt$"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    change: dict[str, object], complaint: str, uninterrupted: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        run_of(tmp_path, **{"teacher": str(uninterrupted), **change})


def test_a_teacher_of_other_inputs_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "squashes")
    saved = checkpoint.load(uninterrupted / BEST)
    squashing = saved.input.model_copy(update={"resize": "squash"})
    checkpoint.save(replace(saved, input=squashing), tmp_path / "squashes" / BEST)
    with pytest.raises(CheckpointError, match="squashes makes other inputs of the same rows"):
        run_of(tmp_path / "run", teacher=str(tmp_path / "squashes"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"teachers": "ensemble"}, "a teacher takes the place of teachers: leave those out"),
        ({"loss": "exit-wise"}, "the exit-wise loss has neither teachers nor a temperature"),
    ],
)
def test_a_teacher_excludes_other_targets(options: dict[str, object], complaint: str) -> None:
    given = CONFIG.model_dump() | options | {"teacher": "runs/teacher"}
    with pytest.raises(ValidationError, match=complaint):
        TrainConfig.model_validate(given)


def test_a_taught_run_goes_on_where_it_stopped(uninterrupted: Path, tmp_path: Path) -> None:
    first = run_of(tmp_path / "first", teacher=str(uninterrupted), epochs=2)
    first.data.keep(tmp_path / "first")
    first.train_epoch()
    first.finish_epoch()
    first.train_epoch()
    again = run_of(tmp_path / "first", teacher=str(uninterrupted), epochs=2)
    again.restore(checkpoint.load(tmp_path / "first" / LAST))
    again.train_epoch()
    assert first.epoch_means() == again.epoch_means()
