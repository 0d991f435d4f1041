"""Shadow samples on a real engine: what the last exit says of early answers."""

import asyncio
import time

from models.bundle.bundle import Bundle
from models.bundle.costs import FALL
from models.bundle.policy import StopReason, policy_of_threshold
from models.bundle.runner import Arrays
from server.engine.job import Outcome
from server.telemetry.metrics import Metrics
from server.zoo.catalog import ServedModel
from tests.server.engines import IMAGES, NEVER, failing, results_of, running

ROWS = 40
EAGER = policy_of_threshold(0.0, 3)


def compared(metrics: Metrics) -> dict[tuple[str, str], int]:
    return {
        (exit, result): int(
            metrics.registry.get_sample_value(
                "offramp_shadow_agreement_total",
                {"model": "digits", "exit": exit, "result": result},
            )
            or 0
        )
        for exit in "12"
        for result in ("agree", "differ")
    }


async def shadowed(model: ServedModel, metrics: Metrics, share: float, wanted: int) -> None:
    metrics.model_loaded(model)
    async with running(num_workers=2, metrics=metrics, shadow_share=share) as engine:
        for _ in range(ROWS // 20):
            await results_of(engine, model, EAGER, rows=20)
        deadline = time.monotonic() + 20
        while sum(compared(metrics).values()) < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.01)


def agreements(model: ServedModel) -> int:
    """How many of the first images the segments run by hand answer alike at exits 1 and 3."""
    alike = 0
    for image in IMAGES[:20]:
        features: Arrays = [image[None]]
        labels = []
        for exit in (1, 2, 3):
            features = model.runner.run_segment(exit, features)
            labels.append(model.runner.run_head(exit, features).argmax())
        alike += bool(labels[0] == labels[2])
    return alike


def test_agreement_is_what_the_last_exit_says(model: ServedModel) -> None:
    metrics = Metrics()
    asyncio.run(shadowed(model, metrics, share=1.0, wanted=ROWS))
    alike = agreements(model)
    assert compared(metrics) == {
        ("1", "agree"): 2 * alike,
        ("1", "differ"): 2 * (20 - alike),
        ("2", "agree"): 0,
        ("2", "differ"): 0,
    }


def test_a_segment_that_seems_too_slow_to_run_is_found_faster(model: ServedModel) -> None:
    for _ in range(10):
        model.costs.segment_took(2, 1, 1.0)
    feared_s = model.costs.segment_s(2, 1)
    assert feared_s > 20 * model.costs.segment_s(3, 1), "a run of it would be late"
    asyncio.run(shadowed(model, Metrics(), share=1.0, wanted=ROWS))
    assert model.costs.segment_s(2, 1) < (1 - FALL) ** (ROWS - 1) * feared_s


def test_no_share_no_shadows(model: ServedModel) -> None:
    metrics = Metrics()
    asyncio.run(shadowed(model, metrics, share=0.0, wanted=0))
    assert set(compared(metrics).values()) == {0}


def test_a_shadow_that_fails_harms_nobody(digits_bundle: Bundle) -> None:
    metrics = Metrics()
    model = failing(digits_bundle, (2, False))
    asyncio.run(shadowed(model, metrics, share=1.0, wanted=0))
    assert set(compared(metrics).values()) == {0}
    assert not model.breakers[2, False].num_failures


def test_answers_of_the_last_exit_have_no_shadow(model: ServedModel) -> None:
    async def run() -> list[Outcome | Exception]:
        async with running(metrics=metrics, shadow_share=1.0) as engine:
            return await results_of(engine, model, NEVER, rows=4)

    metrics = Metrics()
    metrics.model_loaded(model)
    results = asyncio.run(run())
    assert [r.stop_reason for r in results if isinstance(r, Outcome)] == [StopReason.FINAL] * 4
    assert set(compared(metrics).values()) == {0}
