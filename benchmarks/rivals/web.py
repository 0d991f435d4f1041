"""A rival's FastAPI application; uvicorn runs two processes of it.

The route is a coroutine that blocks its loop while the network runs: as a plain function, on
FastAPI's threads, it answers 13 to 19 % fewer requests over 1, 8 and 32 connections (naive exits on
two cores, medians of 3 rounds of 2 s, A B A B).
"""

import time

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from benchmarks.rivals.exits import Exits
from benchmarks.rivals.networks import Network
from benchmarks.rivals.setup import Setup
from benchmarks.rivals.uncut import Original, Uncut
from models.bundle.bundle import load_bundle

TOO_LATE = Response(status_code=503)


def create_app() -> FastAPI:
    """The whole server."""
    setup = Setup.told()
    network = open_network(setup)
    app = FastAPI()

    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        body = await request.body()
        if setup.budget_ms is not None and is_late(request, setup.budget_ms):
            return TOO_LATE
        return JSONResponse(network.answer(network.read(body)))

    @app.get("/readyz")
    async def readyz() -> str:
        return "ready"

    return app


def open_network(setup: Setup) -> Network:
    bundle = load_bundle(setup.bundle)
    if setup.network == "exits":
        return Exits(bundle)
    if setup.network == "uncut":
        return Uncut(bundle)
    return Original(bundle, setup.original, setup.mean, setup.std)


def is_late(request: Request, budget_ms: float) -> bool:
    sent = float(request.headers["x-request-start"])
    return 1000 * (time.time() - sent) > budget_ms
