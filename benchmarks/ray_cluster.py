"""Offramp on a real Ray cluster of two nodes on this machine; under load, one of them is killed.

    python -m benchmarks.ray_cluster examples/otter.png --replicas 2 --kill
    python -m benchmarks.ray_cluster examples/otter.png --replicas 0 --clients 24 --requests 7200

Prints one line of JSON: how many requests were sent, what was answered, how many a second, and how
many images each engine had seen, warming up included.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import ray
import typer
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.schema import ReplicaState

from benchmarks.process import ROOT, free_port
from deploy.ray.application import Options, build

PATIENCE = {  # two nodes start slowly on a small machine
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_worker_niceness": "0",  # else it is served last, whatever runs beside it
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_metrics_report_interval_ms": "2000",
}
STORE_BYTES = 100 * 2**20
WARM_UP = 8
KILL_AFTER_S = 1
REPORT_S = 6  # until Ray's exporters have the last answers
HEADERS = {"content-type": "image/png"}


@contextmanager
def cluster() -> Iterator[tuple[Cluster, Any]]:
    """A head, where the ingress is, and a second node; either has room for one engine."""
    os.environ.update(PATIENCE)
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "resources": {"ingress": 1, "engine": 1},
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        },
    )
    try:
        second = made.add_node(num_cpus=1, resources={"engine": 1}, object_store_memory=STORE_BYTES)
        environment = {"OFFRAMP_ZOO": str(ROOT / "models/zoo"), "OFFRAMP_WORKERS": "1"}
        ray.init(
            address=made.address,
            runtime_env={"env_vars": environment | {"PYTHONPATH": str(ROOT)}},
            log_to_driver=False,
        )
        yield made, second
    finally:
        ray.shutdown()
        made.shutdown()


@contextmanager
def serving(replicas: int) -> Iterator[str]:
    """The application's URL, once every replica is ready; one replica per node at most.

    No number is for Serve to find one, from 1 on.
    """
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
    engine = {"ray_actor_options": {"num_cpus": 0, "resources": {"engine": 1}}} | (
        {"num_replicas": replicas} if replicas else {}
    )
    ingress = {"ray_actor_options": {"num_cpus": 0, "resources": {"ingress": 1}}}
    serve.run(build(Options(engine=engine, ingress=ingress)), name="offramp", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def send(url: str, image: bytes, number: int) -> Counter[str]:
    """Asks so many times, one after another, and counts statuses."""
    said: Counter[str] = Counter()
    with httpx.Client(base_url=url, timeout=60, headers=HEADERS) as client:
        for _ in range(number):
            said[
                str(
                    client.post(
                        "/v1/classify?model=cifar100-msdnet&threshold=1", content=image
                    ).status_code
                )
            ] += 1
    return said


def exported(name: str, **labels: str) -> dict[str, int]:
    """A metric of the engines by replica, as Ray's own exporters have it, one on each node."""
    found: Counter[str] = Counter()
    labels["deployment"] = "engine"
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with suppress(httpx.TransportError):  # a killed node
            lines = httpx.get(url).text.splitlines()
            wanted = (line for line in lines if line.startswith(f"ray_{name}{{"))
            for family in text_string_to_metric_families("\n".join(wanted)):
                for sample in family.samples:
                    if labels.items() <= sample.labels.items():
                        found[sample.labels["replica"]] += int(sample.value)
    return dict(found)


def images() -> dict[str, int]:
    """How many each engine has seen."""
    return exported("offramp_batch_rows_sum", exit="1")


def num_engines() -> int:
    engine = serve.status().applications["offramp"].deployments["engine"]
    return int(engine.replica_states[ReplicaState.RUNNING])


def warm_up(url: str, image: bytes, replicas: int) -> None:
    """Asks until every engine has answered, also an engine that is still starting."""
    while len([seen for seen in images().values() if seen]) < max(replicas, num_engines()):
        send(url, image, WARM_UP)


def main(
    image: Path,
    replicas: Annotated[int, typer.Option(help="Of the engine; 0: autoscaled.")] = 2,
    requests: int = 400,
    clients: int = 8,
    kill: bool = False,
) -> None:
    content, each = image.read_bytes(), requests // clients
    result: dict[str, object] = {"sent": clients * each}
    with cluster() as (made, second), serving(replicas) as url:
        warm_up(url, content, replicas)
        result["engines_at_start"] = num_engines()
        start = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            asked = [pool.submit(send, url, content, each) for _ in range(clients)]
            if kill:
                time.sleep(KILL_AFTER_S)
                result["images_at_kill"] = images()
                result["queue_depth_at_kill"] = exported("offramp_queue_depth")
                result["clients_at_kill"] = sum(not one.done() for one in asked)
                made.remove_node(second, allow_graceful=False)
            result["codes"] = sum((one.result() for one in asked), Counter[str]())
        result["per_second"] = round(clients * each / (time.monotonic() - start), 1)
        result["engines_at_end"] = num_engines()
        time.sleep(REPORT_S)
        result["images_at_end"] = images()
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
