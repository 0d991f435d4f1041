"""Traffic that makes the dashboards move: requests of every kind, in waves.

locust --locustfile deploy/load/locustfile.py --headless --host http://127.0.0.1:8000
"""

import base64
import math
import random
from pathlib import Path

from locust import HttpUser, LoadTestShape, constant_throughput, task

PNGS = [path.read_bytes() for path in sorted((Path(__file__).parent / "images").iterdir())]
HEADERS = {"content-type": "image/png"}
CLASSIFY = "/v1/classify?model=cifar100-msdnet"
LEAST, MOST = 2, 60
"""Users at low and at high tide; each sends so many requests a second."""
PER_SECOND = 5
WAVE_S = 300


class Client(HttpUser):
    wait_time = constant_throughput(PER_SECOND)

    @task(8)
    def hurried(self) -> None:
        """A budget for some exits, and a threshold that not every image passes early."""
        budget_ms, threshold = random.choice((3, 10, 25, 200)), round(random.uniform(0.3, 1), 2)
        self.ask({"latency_budget_ms": budget_ms, "threshold": threshold}, 200, 503)

    @task(8)
    def at_an_operating_point(self) -> None:
        self.ask({"operating_point": random.choice(("fast", "balanced", "accurate"))}, 200, 503)

    @task(1)
    def thrifty(self) -> None:
        self.ask({"energy_budget_mj": 10, "threshold": 1}, 200, 503)

    @task(1)
    def strict(self) -> None:
        """Refused: no server is that quick."""
        self.ask({"latency_budget_ms": 0.1, "strict": True}, 503)

    @task(1)
    def several(self) -> None:
        images = [base64.b64encode(png).decode() for png in random.sample(PNGS, 8)]
        body = {"images": images, "latency_budget_ms": 50}
        with self.client.post(CLASSIFY, json=body, catch_response=True) as said:
            if said.status_code in (200, 503):
                said.success()

    @task(1)
    def broken(self) -> None:
        self.ask({}, 400, num_bytes=60)

    def ask(self, query: dict[str, object], *codes: int, num_bytes: int | None = None) -> None:
        """Posts an image, or its first bytes; a status that was not to be expected is a failure."""
        content = random.choice(PNGS)[:num_bytes]
        with self.client.post(
            CLASSIFY, params=query, data=content, headers=HEADERS, catch_response=True
        ) as said:
            if said.status_code in codes:
                said.success()
            else:
                said.failure(f"{said.status_code} is not of {codes}")


class Waves(LoadTestShape):
    """As many users as a tide has water."""

    def tick(self) -> tuple[int, float]:
        run_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        tide = (1 - math.cos(2 * math.pi * run_s / WAVE_S)) / 2
        return round(LEAST + (MOST - LEAST) * tide), MOST / 10
