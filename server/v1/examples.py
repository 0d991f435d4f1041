"""Examples of the OpenAPI document: requests that any image model answers, and answers."""

from typing import Any

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNk"
    "EIAAJgGKGACOGAQAwSeVywAAAABJRU5ErkJggg=="
)
REQUESTS: dict[str, Any] = {
    "budget": {
        "summary": "One image, to be answered in 20 ms",
        "value": {"images": [PICTURE], "latency_budget_ms": 20, "top_k": 3},
    },
    "point": {
        "summary": "Two images, at another operating point",
        "value": {"images": [PICTURE, PICTURE], "operating_point": "fast"},
    },
    "trace": {
        "summary": "What every exit says, to the last",
        "value": {"images": [PICTURE], "threshold": 1, "trace": True},
    },
}
CLASSIFICATION: dict[str, Any] = {
    "model": "cifar100-msdnet",
    "version": 1,
    "label": "otter",
    "index": 55,
    "confidence": 0.7551,
    "top_k": [{"label": "otter", "index": 55, "probability": 0.7551}],
    "exit": 3,
    "num_exits": 7,
    "stop_reason": "confident",
    "budget": {"latency_ms": 20.0, "energy_mj": None, "met": True},
    "cost": {
        "total_ms": 4.949,
        "queue_ms": 0.18,
        "compute_ms": 3.082,
        "energy_mj": 24.653,
        "energy_source": "estimate",
        "macs": 32344064,
    },
}
EXIT: dict[str, Any] = {
    "image": 0,
    "label": "seal",
    "index": 72,
    "confidence": 0.4102,
    "top_k": [{"label": "seal", "index": 72, "probability": 0.4102}],
    "exit": 1,
    "num_exits": 7,
    "at_ms": 2.114,
}
