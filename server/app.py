"""The application, and the bundles it serves: all loaded and measured before the first request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

from models.bundle.bundle import BundleError
from models.bundle.energy import find_meter
from server.engine.engine import Engine
from server.engine.scheduler import Scheduler
from server.engine.shadow import Shadows
from server.http import direct, probes, problems
from server.http.decode import bound_decoders
from server.http.departure import Departure
from server.http.gate import Gate
from server.http.middleware import UNMATCHED, LimitBody, Observe
from server.http.state import Answering, State
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.v1 import classify, info
from server.v2 import routes as oip
from server.v2.infer import HEADER_LENGTH
from server.zoo.catalog import Catalog, serve_bundle
from server.zoo.directory import Key, find_bundles
from server.zoo.repository import Repository
from server.zoo.watcher import watch

logger = logging.getLogger("offramp")
DESCRIPTION = "Classification that stops early, within the budget that each request brings."
ROUTERS = (classify.router, info.router, probes.router, *oip.ROUTERS)
TELEMETRY: TelemetryConfig = {
    "metrics": False,  # Prometheus has more
    "logs": False,
    "operation_spans": False,
    "auto_configure": True,
    "exclude": lambda scope: scope["path"] in probes.PATHS,
}
OWN_HEADERS = ("X-Request-ID", HEADER_LENGTH)
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["Authorization", "Content-Encoding", "Content-Type", *OWN_HEADERS],
    "expose_headers": ["Retry-After", "Server-Timing", *OWN_HEADERS],
}


def local_engine(settings: Settings, metrics: Metrics) -> Engine:
    """Workers in this process, running from now on."""
    return Engine(
        Scheduler(settings.max_in_flight, settings.workers),
        metrics,
        Shadows(settings.shadow_share, metrics),
        settings.stall_s,
    )


def create_app(
    settings: Settings,
    catalog: Catalog,
    metrics: Metrics,
    start_engine: Callable[[Settings, Metrics], Answering] = local_engine,
    make_repository: Callable[[Settings, Catalog, Metrics, Gate], Repository] = Repository,
) -> FastAPI:
    """The ASGI application over loaded models; its workers live as long as its lifespan."""
    gate = Gate(settings.max_requests)
    bound_decoders(settings.max_image_pixels)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = start_engine(settings, metrics)
        with ThreadPoolExecutor(settings.workers, "offramp-decode") as decoders:
            repository = make_repository(settings, catalog, metrics, gate)
            app.state.offramp = State(
                settings, metrics, catalog, repository, engine, decoders, gate
            )
            metrics.watch(engine.queue_depth, engine.in_flight, settings.max_in_flight)
            try:
                async with watching(repository, settings):
                    yield
            finally:
                engine.stop()

    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="Offramp",
        description=DESCRIPTION,
        version=version("offramp"),
        root_path=settings.root_path,
        lifespan=lifespan,
        swagger_ui_parameters={"validatorUrl": None},  # it is elsewhere
        telemetry=TELEMETRY | {"tracing": settings.traces},
    )
    app.state.gate, app.state.metrics = gate, metrics
    for router in ROUTERS:
        app.router.routes.extend(router.routes)  # included, they would be looked up in two steps
    problems.install(app)
    direct.install(app, middleware(settings, metrics, gate))
    for route in app.routes:
        if isinstance(route, APIRoute):
            metrics.route_known(route.path)
    metrics.route_known(UNMATCHED)
    return app


def middleware(settings: Settings, metrics: Metrics, gate: Gate) -> list[Middleware]:
    """What surrounds every request, outermost first."""
    cors = Middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    return [
        Middleware(Observe, metrics=metrics, gate=gate),
        *([cors] if settings.cors_origins else []),
        Middleware(Departure, metrics=metrics, send_timeout_s=settings.send_timeout_s),
        Middleware(LimitBody, metrics=metrics, settings=settings),
    ]


@asynccontextmanager
async def watching(repository: Repository, settings: Settings) -> AsyncIterator[None]:
    """Follows the zoo in the background, where the settings ask for it."""
    if settings.watch_interval_s is None:
        yield
        return
    task = asyncio.create_task(watch(repository, settings.zoo, settings.watch_interval_s))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def load_catalog(
    settings: Settings, metrics: Metrics, only: Collection[Key] | None = None
) -> Catalog:
    """Loads every bundle of the zoo, or `only` some, and measures it on this host.

    One that is refused does not keep the others from serving: whoever restarts a server is no worse
    off than whoever loads the bundle into one that runs. Raises BundleError where none is left.
    """
    catalog, meter = Catalog(), find_meter(settings.execution_provider)
    if meter is not None:
        metrics.meter_found(meter)
    refusal = ""
    for key, path in find_bundles(settings.zoo).items():
        if only is not None and key not in only:
            continue
        logger.info("loading %s", path)
        try:
            model = serve_bundle(path, settings, meter)
        except BundleError as error:
            logger.warning("refused: %s", error)
            metrics.model_refused(path.parent.name)
            catalog.reasons[key] = refusal = str(error)
            continue
        catalog.add(model)
        metrics.model_loaded(model)
        metrics.default_is(model)  # versions rise
    if only is None and not catalog.names():
        raise BundleError(refusal)
    return catalog
