"""The application, and the bundles it serves: all loaded and measured before the first request."""

import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute

from models.bundle.bundle import BundleError
from models.bundle.energy import find_meter
from server import classify, info, problems
from server.catalog import Catalog, bundle_paths, serve_bundle
from server.engine import Engine
from server.metrics import Metrics
from server.middleware import LimitBody, Observe
from server.scheduler import Scheduler
from server.settings import Settings
from server.shadow import Shadows
from server.state import Answering, State

logger = logging.getLogger("offramp")
ROUTERS = (classify.router, info.router)


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
) -> FastAPI:
    """The ASGI application over loaded models; its workers live as long as its lifespan."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = start_engine(settings, metrics)
        with ThreadPoolExecutor(settings.workers, "offramp-decode") as decoders:
            app.state.offramp = State(settings, metrics, catalog, engine, decoders)
            metrics.watch(engine.queue_depth, engine.in_flight, settings.max_in_flight)
            try:
                yield
            finally:
                engine.stop()

    app = FastAPI(title="Offramp", version=version("offramp"), lifespan=lifespan)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(Observe, metrics=metrics)
    problems.install(app)
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute):
                metrics.route_known(route.path)
    return app


def load_catalog(settings: Settings, metrics: Metrics) -> Catalog:
    """Loads every bundle of the zoo and measures it on this host; raises BundleError."""
    catalog, meter = Catalog(), find_meter()
    if meter is not None:
        metrics.meter_found(meter)
    for path in bundle_paths(settings.zoo):
        logger.info("loading %s", path)
        try:
            model = serve_bundle(path, settings, meter)
        except BundleError:
            metrics.model_refused(path.parent.name)
            raise
        catalog.add(model)
        metrics.model_loaded(model)
    return catalog
