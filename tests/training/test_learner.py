"""One step: which weights it moves, by which gradients."""

from pathlib import Path

import pytest
import torch

from tests.training.runs import held, run_of
from training.augment import mixed
from training.feed import draw_order
from training.losses import exit_wise_loss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("loss", ["distillation", "exit-wise"])
def test_a_step_moves_every_weight_that_has_a_gradient(loss: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, loss=loss)
    before = {name: p.clone() for name, p in run.net.named_parameters()}
    run.net.train()
    run.order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
    run.epoch = 1  # the warm-up is over
    run.train_step()
    mean_loss, accuracy = run.epoch_means()
    assert mean_loss > 0
    assert len(accuracy) == 3
    assert all(0 <= share <= 1 for share in accuracy)
    has_gradient = {n for n, p in run.net.named_parameters() if p.grad is not None and p.grad.any()}
    has_moved = {n for n, p in run.net.named_parameters() if not torch.equal(p, before[n])}
    assert has_gradient
    assert has_gradient <= has_moved
    assert (run.distillation_temperature.item() > 1) == (loss == "distillation")


def test_a_step_raises_no_temperature_at_which_all_answers_are_even_guesses(tmp_path: Path) -> None:
    """Of ten classes they still have a confidence above 0.1, which the run asks for."""
    run = run_of(tmp_path)
    run.set_training()
    for temperature, expected in ((1.0, 1.05), (1000.0, 1000.0)):
        run.distillation_temperature.fill_(temperature)
        run.learn(run.feed.parts(run.feed.order(), 0, 0), rate=0.01)
        assert run.distillation_temperature.item() == expected


def test_a_batch_in_two_parts_takes_the_mean_of_their_gradients(tmp_path: Path) -> None:
    runs = []
    for parts in (1, 2):
        run = run_of(tmp_path / str(parts), micro_batches=parts)
        run.net.eval()  # normalisation by fixed statistics does not see the parts
        run.confidence = 0.1  # any answer of ten classes is above it
        run.order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
        run.train_step()
        runs.append(run)
    whole, halves = runs
    assert torch.equal(whole.order, halves.order)
    for one, other in zip(whole.net.parameters(), halves.net.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)  # some features no exit reads
        if one.grad is not None and other.grad is not None:
            assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert halves.epoch_means()[0] == pytest.approx(whole.epoch_means()[0], rel=1e-5)
    assert halves.num_correct.tolist() == whole.num_correct.tolist()
    assert halves.distillation_temperature.item() == whole.distillation_temperature.item() == 1.05


def test_the_moving_average_of_the_weights_is_judged_and_saved(tmp_path: Path) -> None:
    run = run_of(tmp_path, ema_decay=0.5, epochs=1)
    run.net.train()
    run.order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
    weights = []
    for _ in range(3):
        run.train_step()
        weights.append(run.net.heads[0][0][0].weight.detach().clone())
    expected = 0.5 * (0.5 * weights[0] + 0.5 * weights[1]) + 0.5 * weights[2]
    found = run.snapshot().weights["heads.0.0.0.weight"]
    assert torch.allclose(found, expected, atol=1e-6)
    assert run.average is not None
    for p in run.average.parameters():
        p.data.zero_()
    assert run.selection_accuracy() == [pytest.approx(0.1)] * 3  # all logits are equal


def test_a_frozen_backbone_stays_as_it_is(tmp_path: Path) -> None:
    run = run_of(tmp_path, freeze="backbone", warmup_epochs=0)
    before = {name: value.clone() for name, value in run.net.state_dict().items()}
    run.train_epoch()
    changed = {n for n, value in run.net.state_dict().items() if not torch.equal(value, before[n])}
    assert changed
    assert all(name.startswith("heads.") for name in changed)


def test_the_backbone_can_have_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    run = run_of(tmp_path, backbone_learning_rate=0.002, learning_rate=0.1, schedule="step")
    run.train_epoch()
    segments, heads = run.optimizer.param_groups
    assert (segments["lr"], heads["lr"]) == (pytest.approx(0.002), pytest.approx(0.1))
    assert len(segments["params"]) == len(list(run.net.segments.parameters()))
    assert len(heads["params"]) == len(list(run.net.heads.parameters()))


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixed_images_have_the_losses_of_both_labels(mixing: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, mixing=mixing, flip=False, crop_padding=0, loss="exit-wise")
    run.net.eval()
    run.order = draw_order(len(run.splits.train), 0)
    torch.manual_seed(10)  # a mixed batch
    images, labels = held(run).batch(run.order[:32])
    with torch.no_grad():
        made, share = mixed(images, run.config.mixing or "mixup")
        logits = run.net(made)
        own, partners = (exit_wise_loss(logits, y) for y in (labels, labels.roll(2)))
    assert 0.05 < share < 0.95
    torch.manual_seed(10)
    run.train_step()
    assert run.epoch_means()[0] == pytest.approx((share * own + (1 - share) * partners).item())


def test_scaled_gradients_are_what_the_step_takes(tmp_path: Path) -> None:
    plain, scaled = (
        run_of(tmp_path / str(on), gradient_scaling=on, flip=False, crop_padding=0)
        for on in (False, True)
    )
    for run in (plain, scaled):
        run.net.eval()
        run.order = torch.arange(32)
        run.train_step()
    for number, factor in enumerate((3, 2, 1)):
        pairs = zip(
            plain.net.segments[number].parameters(),
            scaled.net.segments[number].parameters(),
            strict=True,
        )
        for one, other in pairs:
            if one.grad is not None and other.grad is not None:
                assert torch.allclose(one.grad, factor * other.grad, rtol=1e-4, atol=1e-6)
    heads = zip(plain.net.heads.parameters(), scaled.net.heads.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in heads if a.grad is not None)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, False),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True}, True),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_it(
    capabilities: dict[str, bool], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert run_of(tmp_path, bf16=True).is_bf16 == expected
    assert not run_of(tmp_path).is_bf16
