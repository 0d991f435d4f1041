"""Outcomes as clients of /v1 see them, ready to be written as JSON; `schemas.py` documents them."""

from collections.abc import Sequence
from typing import Any

from models.bundle.confidence import Floats
from server.engine.job import Answer, Demand, Outcome
from server.http.wording import best_labels, is_met, milli
from server.running import Served
from server.v1.schemas import Parameters

Json = dict[str, Any]


def answers(served: Served, parameters: Parameters) -> Json:
    """One row's Classification, or the Classifications of several."""
    said = [
        answer(served, outcome, parameters, is_cut=is_cut)
        for outcome, is_cut in zip(served.outcomes, served.are_cut, strict=True)
    ]
    return said[0] if len(said) == 1 else {"results": said}


def answer(served: Served, outcome: Outcome, parameters: Parameters, *, is_cut: bool) -> Json:
    """One row's Classification."""
    demand, last = served.demand, outcome.answer
    manifest = demand.model.manifest
    said = {
        "model": manifest.name,
        "version": manifest.version,
        **labels_of(last.probabilities, manifest.labels, last.confidence, parameters.top_k),
        "exit": last.exit,
        "num_exits": manifest.num_exits,
        "stop_reason": outcome.stop_reason.value,
        "budget": {
            "latency_ms": parameters.latency_budget_ms,
            "energy_mj": parameters.energy_budget_mj,
            "met": is_met(served, outcome),
        },
        "cost": {
            "total_ms": milli(served.total_s),
            "queue_ms": milli(outcome.queue_s),
            "compute_ms": milli(outcome.compute_s),
            "energy_mj": milli(outcome.energy_j),
            "energy_source": demand.model.energy_source,
            "macs": outcome.macs,
        },
    }
    if manifest.input.kind == "text":
        said["truncated"] = is_cut
    if served.is_cached is not None:
        said["cached"] = served.is_cached
    if parameters.trace:
        said["trace"] = trace(outcome, manifest.labels, demand.arrival)
    return said


def exit_event(demand: Demand, parameters: Parameters, said: Answer) -> Json:
    """What one exit says of one row of a request: an ExitEvent but for the row's number."""
    manifest = demand.model.manifest
    return {
        **labels_of(said.probabilities, manifest.labels, said.confidence, parameters.top_k),
        "exit": said.exit,
        "num_exits": manifest.num_exits,
        "at_ms": milli(said.at_s - demand.arrival),
    }


def labels_of(probabilities: Floats, labels: Sequence[str], confidence: float, top_k: int) -> Json:
    """The best label, and the `top_k` best with their probabilities."""
    top = [
        {"label": labels[index], "index": index, "probability": float(probabilities[index])}
        for index in best_labels(probabilities, top_k)
    ]
    best = top[0]
    return {
        "label": best["label"], "index": best["index"], "confidence": confidence, "top_k": top,
    }  # fmt: skip


def trace(outcome: Outcome, labels: Sequence[str], arrival: float) -> list[Json]:
    """What every exit head that ran said: TraceEntries."""
    return [
        {
            "exit": said.exit,
            "label": labels[int(said.probabilities.argmax())],
            "confidence": said.confidence,
            "at_ms": milli(said.at_s - arrival),
        }
        for said in outcome.answers
    ]
