"""Outcomes as clients see them."""

from collections.abc import Sequence

import numpy as np

from models.bundle.confidence import Floats
from server.engine.job import Answer, Budget, Demand, Outcome
from server.v1.schemas import (
    BudgetReport,
    Classification,
    CostReport,
    ExitEvent,
    Labelled,
    Parameters,
    TraceEntry,
)


def answer(
    demand: Demand, parameters: Parameters, outcome: Outcome, total_s: float
) -> Classification:
    """One image's answer, `total_s` after its arrival."""
    manifest, last = demand.model.manifest, outcome.answer
    top = top_k(last.probabilities, manifest.labels, parameters.top_k)
    return Classification(
        model=manifest.name,
        version=manifest.version,
        label=top[0].label,
        index=top[0].index,
        confidence=last.confidence,
        top_k=top,
        exit=last.exit,
        num_exits=manifest.num_exits,
        stop_reason=outcome.stop_reason,
        budget=BudgetReport(
            latency_ms=parameters.latency_budget_ms,
            energy_mj=parameters.energy_budget_mj,
            met=is_met(demand.budget, outcome, total_s),
        ),
        cost=CostReport(
            total_ms=milli(total_s),
            queue_ms=milli(outcome.queue_s),
            compute_ms=milli(outcome.compute_s),
            energy_mj=milli(outcome.energy_j),
            energy_source=demand.model.energy_source,
            macs=outcome.macs,
        ),
        trace=trace(outcome, manifest.labels, demand.arrival) if parameters.trace else None,
    )


def exit_event(demand: Demand, parameters: Parameters, image: int, said: Answer) -> ExitEvent:
    """What one exit says of one image of a request."""
    manifest = demand.model.manifest
    top = top_k(said.probabilities, manifest.labels, parameters.top_k)
    return ExitEvent(
        image=image,
        label=top[0].label,
        index=top[0].index,
        confidence=said.confidence,
        top_k=top,
        exit=said.exit,
        num_exits=manifest.num_exits,
        at_ms=milli(said.at_s - demand.arrival),
    )


def is_met(budget: Budget, outcome: Outcome, total_s: float) -> bool:
    is_in_time = budget.latency_s is None or total_s <= budget.latency_s
    return is_in_time and (budget.energy_j is None or outcome.energy_j <= budget.energy_j)


def top_k(probabilities: Floats, labels: Sequence[str], k: int) -> list[Labelled]:
    """The k most probable labels, most probable first."""
    one = [int(probabilities.argmax())]  # which is mostly what is asked for, and quicker
    best = one if k == 1 else np.argsort(-probabilities, kind="stable")[:k].tolist()
    return [Labelled(label=labels[i], index=i, probability=float(probabilities[i])) for i in best]


def trace(outcome: Outcome, labels: Sequence[str], arrival: float) -> list[TraceEntry]:
    """What every exit head that ran said."""
    return [
        TraceEntry(
            exit=said.exit,
            label=labels[int(said.probabilities.argmax())],
            confidence=said.confidence,
            at_ms=milli(said.at_s - arrival),
        )
        for said in outcome.answers
    ]


def server_timing(decode_s: float, outcomes: Sequence[Outcome]) -> str:
    """A Server-Timing header in milliseconds; of several images, the longest of each step."""
    steps = {"decode": decode_s, "queue": max(outcome.queue_s for outcome in outcomes)}
    for outcome in outcomes:
        for exit, seconds in enumerate(outcome.segment_s, start=1):
            name = f"segment_{exit}"
            steps[name] = max(seconds, steps.get(name, 0.0))
    return ", ".join(f"{name};dur={milli(seconds)}" for name, seconds in steps.items())


def milli(base: float) -> float:
    """Seconds to milliseconds, joules to millijoules, without false digits."""
    return round(1000 * base, 3)
