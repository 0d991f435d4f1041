"""The application, and the bundles it serves: all loaded and measured before the first request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp

from models.bundle.bundle import BundleError
from models.bundle.energy import find_meter
from models.bundle.manifest import Key
from server.cache import Cache
from server.caching import CachingService
from server.engine.engine import Engine
from server.gate import Gate
from server.http import probes, problems
from server.http.decode import bound_decoders
from server.http.edge import Edge
from server.http.exchange import UNMATCHED
from server.http.hot import HotRoute
from server.page.routes import page_router
from server.service import Answering, Service
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.v1 import classify, info
from server.v2 import infer
from server.v2 import routes as oip
from server.v2.infer import HEADER_LENGTH
from server.zoo.catalog import Catalog, serve_bundle
from server.zoo.directory import find_bundles, signatures
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
    """The engine of this process, on the event loop that runs."""
    return Engine(
        settings.cores.workers,
        settings.limits.max_in_flight,
        settings.cores.stall_s,
        settings.models.shadow_share,
        metrics,
    )


def create_app(
    settings: Settings,
    catalog: Catalog,
    metrics: Metrics,
    start_engine: Callable[[Settings, Metrics], Answering] = local_engine,
    make_repository: Callable[[Settings, Catalog, Metrics, Gate], Repository] = Repository,
) -> FastAPI:
    """The ASGI application over loaded models; its engine lives as long as its lifespan."""
    bound_decoders(settings.limits.max_image_pixels)
    gate = Gate(settings.limits.max_requests)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = start_engine(settings, metrics)
        with ThreadPoolExecutor(settings.cores.workers, "offramp-decode") as decoders:
            repository = make_repository(settings, catalog, metrics, gate)
            app.state.service = service_over(repository, settings, metrics, engine, decoders, gate)
            metrics.watch(engine.queue_depth, engine.in_flight, settings.limits.max_in_flight)
            try:
                async with watching(repository, settings), answering_grpc(app.state.service):
                    yield
            finally:
                engine.stop()
                metrics.ledger.settle()

    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="Offramp",
        description=DESCRIPTION,
        version=version("offramp"),
        lifespan=lifespan,
        swagger_ui_parameters={"validatorUrl": None},  # it is elsewhere
        telemetry=TELEMETRY | {"tracing": settings.telemetry.traces},
    )
    pages = (page_router(),) if settings.address.page else ()
    app.state.gate = gate
    for router in (*ROUTERS, *pages):
        app.router.routes.extend(router.routes)  # included, they would be looked up in two steps
    problems.install(app)
    app.middleware_stack = Edge(
        app.build_middleware_stack(), find_hot, lambda: app.state.service, with_cors(settings)
    )
    for route in app.routes:
        if isinstance(route, APIRoute):
            metrics.route_known(route.path)
    metrics.route_known(UNMATCHED)
    return app


def service_over(
    repository: Repository,
    settings: Settings,
    metrics: Metrics,
    engine: Answering,
    decoders: Executor,
    gate: Gate,
) -> Service:
    """The service; it keeps answers of the models that are served where the settings ask for it."""
    parts = settings, metrics, repository, engine, decoders, gate
    if not settings.limits.max_cached_bytes:
        return Service(*parts)
    cache = Cache(settings.limits.max_cached_bytes)
    repository.catalog.on_left = cache.forget
    metrics.watch_cache(lambda: cache.num_bytes)
    return CachingService(*parts, cache=cache)


def find_hot(method: str, path: str) -> HotRoute | None:
    """The routes that the edge answers itself."""
    if path == classify.PATH and method == "POST":
        return classify.ROUTE
    return infer.route_of(method, path)


def with_cors(settings: Settings) -> Callable[[ASGIApp], ASGIApp]:
    """Lets pages of the origins in the settings call the server."""
    origins = settings.access.cors_origins
    return lambda app: CORSMiddleware(app, allow_origins=origins, **CORS) if origins else app


@asynccontextmanager
async def watching(repository: Repository, settings: Settings) -> AsyncIterator[None]:
    """Follows the zoo in the background, where the settings ask for it."""
    if settings.models.watch_interval_s is None:
        yield
        return
    task = asyncio.create_task(
        watch(repository, settings.models.zoo, settings.models.watch_interval_s)
    )
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def answering_grpc(service: Service) -> AsyncIterator[None]:
    """Listens for gRPC, where the settings name a port; only then it is loaded."""
    port = service.settings.address.grpc_port
    if port is None:
        yield
        return
    async with import_module("server.grpc.listener").listening(service, port):
        yield


def load_catalog(
    settings: Settings, metrics: Metrics, only: Collection[Key] | None = None
) -> Catalog:
    """Loads every bundle of the zoo, or `only` some, and measures it on this host.

    A bundle that is refused does not keep the others from serving, as in a server that runs. Raises
    BundleError where none is left.
    """
    catalog, meter = Catalog(), find_meter(settings.cores.execution_provider)
    if meter is not None:
        metrics.meter_found(meter)
    catalog.signatures = signatures(settings.models.zoo)
    refusal = ""
    for key, path in find_bundles(settings.models.zoo).items():
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
