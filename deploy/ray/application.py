"""Offramp on Ray Serve: the same app as ingress, the same engine as replicas, autoscaled.

serve run deploy.ray.application:build
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from deploy.ray.exporting import Exporter
from deploy.ray.remote_engine import RemoteEngine
from deploy.ray.replica import EngineReplica
from deploy.ray.repository import FixedRepository
from server.app import create_app, load_catalog
from server.settings import Settings, load_settings
from server.telemetry.metrics import Metrics

AUTOSCALING = AutoscalingConfig(
    min_replicas=1,
    max_replicas=8,
    target_ongoing_requests=8,  # waiting or running; a request of many images counts as one
    upscale_delay_s=5,
    downscale_delay_s=300,
)
MAX_ONGOING = 1024
"""Requests that an engine or the ingress is given at once. Its own admission refuses sooner: it
takes `max_in_flight` rows, and as many in the background."""


class Ingress:
    """The server's app. It loads the bundles, too: it describes models and checks requests."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings, metrics = load_settings(watch_interval_s=None), Metrics()
        catalog = load_catalog(settings, metrics)
        return create_app(settings, catalog, metrics, self._start_engine, FixedRepository)

    def _start_engine(self, settings: Settings, metrics: Metrics) -> RemoteEngine:
        Exporter(metrics.registry).report()
        return RemoteEngine(self._replicas, settings.limits.max_in_flight)


class Options(BaseModel):
    """Of the two deployments, as in Serve's configuration files."""

    model_config = ConfigDict(extra="forbid")

    engine: dict[str, Any] = {}
    ingress: dict[str, Any] = {}


def build(options: Options) -> serve.Application:
    """Engines are autoscaled unless the options say how many there are."""
    scaling = {} if "num_replicas" in options.engine else {"autoscaling_config": AUTOSCALING}
    engines = serve.deployment(
        EngineReplica, name="engine", max_ongoing_requests=MAX_ONGOING, **scaling | options.engine
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        max_ongoing_requests=MAX_ONGOING,
        logging_config=LoggingConfig(enable_access_log=False),
        **options.ingress,
    )
    return ingress.bind(engines.bind())
