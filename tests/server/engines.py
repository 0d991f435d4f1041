"""Real engines with real lanes, over a real model that a test may tamper with."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import onnxruntime as ort

from models.bundle.bundle import Bundle
from models.bundle.confidence import Floats
from models.bundle.policy import Policy, policy_of_threshold
from models.bundle.runner import Arrays, SegmentRunner
from server.engine.engine import Engine
from server.engine.job import Budget, Demand, Given, Job, Outcome
from server.engine.model import ServedModel
from server.running import Result, Results
from server.telemetry.metrics import Metrics
from tests.server.conftest import made_profile, served
from training.data import load_images

IMAGES = load_images("digits", "test").images.numpy()
NEVER = policy_of_threshold(1.0, 3)
UNCONSULTED = Policy((None, None, None), min_exit=1, max_exit=3)
ANY = Budget()
LONG_S = 0.006
"""Seconds per row and graph of a model whose batches run on threads, in `tampered`."""


class Tampered(SegmentRunner):
    """Calls `before` with the exit and whether its head runs, then runs it."""

    def __init__(self, bundle: Bundle, before: Callable[[int, bool], None]) -> None:
        manifest = bundle.manifest
        super().__init__(manifest.segments, manifest.exit_heads, bundle.graphs)
        self.before = before

    def run_segment(
        self, exit: int, features: Arrays, options: ort.RunOptions | None = None
    ) -> Arrays:
        self.before(exit, False)
        return super().run_segment(exit, features, options)

    def run_head(
        self, exit: int, features: Arrays, options: ort.RunOptions | None = None
    ) -> Floats:
        self.before(exit, True)
        return super().run_head(exit, features, options)


def tampered(
    bundle: Bundle, before: Callable[[int, bool], None], per_row_s: float = 0.0
) -> ServedModel:
    """A model whose graphs are expected to take `per_row_s`, and that `before` may hinder."""
    model = served(bundle, made_profile(per_row_s=per_row_s))
    return replace(model, runner=Tampered(bundle, before))


def failing(bundle: Bundle, *broken: tuple[int, bool], per_row_s: float = 0.0) -> ServedModel:
    """A model of which some graphs raise, given as exit and whether it is the head."""

    def fail(exit: int, is_head: bool) -> None:
        if (exit, is_head) in broken:
            raise RuntimeError("made to fail")

    return tampered(bundle, fail, per_row_s)


class Numberless(SegmentRunner):
    """Says no number at some exits, to some rows of a batch."""

    exits: tuple[int, ...] = ()
    rows = slice(None)

    def run_head(
        self, exit: int, features: Arrays, options: ort.RunOptions | None = None
    ) -> Floats:
        logits = super().run_head(exit, features, options)
        if exit in self.exits:
            logits[self.rows] = np.nan
        return logits


def numberless(bundle: Bundle, *exits: int, rows: slice = slice(None)) -> ServedModel:
    """A model whose heads at these exits say NaN, to these rows of a batch."""
    manifest, model = bundle.manifest, served(bundle, made_profile(0.0, fixed_s=0.0005))
    runner = Numberless(manifest.segments, manifest.exit_heads, bundle.graphs)
    runner.exits, runner.rows = exits, rows
    return replace(model, runner=runner)


@asynccontextmanager
async def running(
    num_lanes: int = 1,
    metrics: Metrics | None = None,
    stall_s: float = 10.0,
    shadow_share: float = 0.0,
) -> AsyncIterator[Engine]:
    """An engine, stopped in the end."""
    engine = Engine(num_lanes, 64, stall_s, shadow_share, metrics or Metrics())
    try:
        yield engine
    finally:
        engine.stop()


def submit(engine: Engine, *jobs: Job) -> None:
    """Admits the jobs of one request, and submits them."""
    engine.submit(engine.admit(jobs[0].demand, len(jobs)), list(jobs))


async def results_of(
    engine: Engine,
    model: ServedModel,
    policy: Policy = NEVER,
    budget: Budget = ANY,
    rows: int = 1,
) -> list[Result]:
    """What the engine makes of the first test images."""
    demand, results = Demand(model, policy, budget, time.monotonic()), Results(rows)
    jobs = [
        Job(demand, Given.of(image), partial(results.settle, number))
        for number, image in enumerate(IMAGES[:rows])
    ]
    submit(engine, *jobs)
    return await results.all


def outcomes(
    model: ServedModel,
    policy: Policy = NEVER,
    budget: Budget = ANY,
    rows: int = 1,
    metrics: Metrics | None = None,
) -> list[Outcome | Exception]:
    """What a fresh engine makes of the first test images."""

    async def run() -> list[Outcome | Exception]:
        async with running(num_lanes=2, metrics=metrics) as engine:
            return await results_of(engine, model, policy, budget, rows)

    return asyncio.run(run())


def only(results: Sequence[Outcome | Exception]) -> Outcome:
    (result,) = results
    assert isinstance(result, Outcome)
    return result
