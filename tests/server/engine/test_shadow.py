"""Shadow samples on a real engine: what the last exit says of early answers."""

import asyncio
import threading
import time

import pytest

from models.bundle.bundle import Bundle
from models.bundle.costs import FALL
from models.bundle.policy import StopReason, policy_of_threshold
from models.bundle.runner import Arrays
from server.engine.job import Outcome
from server.engine.model import ServedModel
from server.telemetry.metrics import Metrics
from tests.server.engine.test_failures import Deadly
from tests.server.engines import IMAGES, LONG_S, NEVER, failing, results_of, running, tampered

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


async def shadowed(
    model: ServedModel, metrics: Metrics, share: float, stall_s: float = 10.0
) -> None:
    """Asks for `ROWS` answers at exit 1, and waits until every shadow has ended."""
    metrics.model_loaded(model)
    async with running(2, metrics, stall_s, shadow_share=share) as engine:
        for _ in range(ROWS // 20):
            results = await results_of(engine, model, EAGER, rows=20)
            assert {is_confident(result) for result in results} == {True}
        deadline = time.monotonic() + 20
        while engine.admission.num_background and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert (engine.in_flight(), engine.admission.num_background) == (0, 0)
        assert engine.is_working()


def is_confident(result: Outcome | Exception) -> bool:
    return isinstance(result, Outcome) and result.stop_reason is StopReason.CONFIDENT


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
    asyncio.run(shadowed(model, metrics, share=1.0))
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
    feared_s, max_rows = model.costs.segment_s(2, 1), model.costs.max_rows
    assert feared_s > 20 * model.costs.segment_s(3, 1), "a run of it would be late"
    asyncio.run(shadowed(model, Metrics(), share=1.0))
    assert model.costs.segment_s(2, 1) < (1 - FALL) ** (ROWS / max_rows - 1) * feared_s


def test_no_share_no_shadows(model: ServedModel) -> None:
    metrics = Metrics()
    asyncio.run(shadowed(model, metrics, share=0.0))
    assert set(compared(metrics).values()) == {0}


@pytest.mark.parametrize("per_row_s", [0.0, LONG_S])
@pytest.mark.parametrize("broken", [(2, False), (2, True), (3, False), (3, True)])
def test_a_shadow_that_fails_is_compared_with_nothing(
    digits_bundle: Bundle, broken: tuple[int, bool], per_row_s: float
) -> None:
    metrics = Metrics()
    model = failing(digits_bundle, broken, per_row_s=per_row_s)
    asyncio.run(shadowed(model, metrics, share=1.0))
    is_compared = broken == (2, True)  # which no shadow asks
    assert sum(compared(metrics).values()) == (ROWS if is_compared else 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("is_dying", [False, True])
def test_a_lane_that_is_lost_with_shadows_is_replaced(
    digits_bundle: Bundle, is_dying: bool
) -> None:
    release, lost = threading.Event(), list[threading.Thread]()

    def lose_one(exit: int, is_head: bool) -> None:
        if exit == 2 and not lost:
            lost.append(threading.current_thread())
            if is_dying:
                raise Deadly
            release.wait()

    model, metrics = tampered(digits_bundle, lose_one, LONG_S), Metrics()
    asyncio.run(shadowed(model, metrics, share=1.0, stall_s=0.1))
    release.set()
    lost[0].join(10)
    assert not lost[0].is_alive()
    assert metrics.registry.get_sample_value("offramp_worker_restarts_total") == 1
    assert ROWS - model.costs.max_rows <= sum(compared(metrics).values()) < ROWS


def test_answers_of_the_last_exit_have_no_shadow(model: ServedModel) -> None:
    async def run() -> list[Outcome | Exception]:
        async with running(metrics=metrics, shadow_share=1.0) as engine:
            return await results_of(engine, model, NEVER, rows=4)

    metrics = Metrics()
    metrics.model_loaded(model)
    results = asyncio.run(run())
    assert [r.stop_reason for r in results if isinstance(r, Outcome)] == [StopReason.FINAL] * 4
    assert set(compared(metrics).values()) == {0}
