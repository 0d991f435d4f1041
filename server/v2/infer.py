"""`POST /v2/models/NAME/infer`: tensors to rows, outcomes to tensors."""

from dataclasses import replace
from functools import partial
from math import inf

from starlette.types import ASGIApp

from models.bundle.manifest import version_of
from server.engine.job import Demand
from server.engine.model import ServedModel
from server.errors import UnknownModel
from server.http.compression import accepted_encoding, deflate, inflate
from server.http.contents import encoded
from server.http.exchange import Exchange, Reply, own_path
from server.http.hot import HotRoute
from server.http.rows import Arrays
from server.http.wording import is_met, milli, server_timing
from server.running import Encoded, Served
from server.service import Service
from server.v2.outputs import output
from server.v2.requests import Inference, read_inference
from server.v2.response_schemas import InferResponse

HEADER_LENGTH = "Inference-Header-Content-Length"
PREFIX, SUFFIX = "/v2/models/", "/infer"
SMALL_BYTES = 65_536
"""A body that is read on the event loop, where it is binary: its tensors are only looked at."""


def route_of(method: str, path: str) -> HotRoute | None:
    """The hot route of an inference, with or without a version in its path."""
    if method != "POST" or not (path.startswith(PREFIX) and path.endswith(SUFFIX)):
        return None
    parts = path[len(PREFIX) : -len(SUFFIX)].split("/")
    if len(parts) == 1 and parts[0]:
        return DEFAULT_VERSION
    if len(parts) == 3 and parts[0] and parts[1] == "versions" and parts[2]:
        return GIVEN_VERSION
    return None


async def infer(exchange: Exchange) -> ASGIApp:
    """Classifies every row of a tensor, each within the request's budget."""
    service, model = exchange.service, model_of(exchange)
    asked = await read(exchange, model)
    parameters = asked.parameters
    demand = service.demand(model, parameters, exchange.arrival, exchange.lag_s, exchange.id)
    exchange.is_background = demand.is_background
    rows = encoded_rows(asked, demand, service)
    served = await service.classify(demand, rows, strict=parameters.strict)
    exchange.exits = served.exits
    return await compressed(exchange, reply_of(asked, served))


def encoded_rows(asked: Inference, demand: Demand, service: Service) -> Encoded:
    """The rows of a request as the service takes them."""
    rows = asked.rows
    if isinstance(rows, Arrays):
        return rows
    by = service.decoded_by(demand, len(rows.values)) if asked.parameters.strict else inf
    return encoded(rows, demand.model, service.settings, service.engine.pace.decoding, by)


def model_of(exchange: Exchange) -> ServedModel:
    """The model that the path names; raises UnknownModel or NotReady."""
    name, *rest = own_path(exchange.scope)[len(PREFIX) : -len(SUFFIX)].split("/")
    version = version_of(rest[1]) if rest else None
    if rest and version is None:
        raise UnknownModel(f"versions are numbers, not {rest[1]!r}", "version")
    return exchange.service.find(name, version)


async def read(exchange: Exchange, model: ServedModel) -> Inference:
    """Reads the body, and what it says; off the event loop where that takes long."""
    body, service = await exchange.body(), exchange.service
    limits = service.settings.limits
    if encoding := exchange.header(b"content-encoding"):
        content = await service.on_thread(partial(inflate, body, encoding, limits.max_body_bytes))
        exchange.hold(len(content) - len(body))
        body = content
    length = exchange.headers.get(HEADER_LENGTH.lower().encode())
    given = None if length is None else length.decode("latin-1")
    step = partial(read_inference, body, given, model.manifest, limits.max_images)
    if given is not None and len(body) <= SMALL_BYTES:
        return step()
    return await service.on_thread(step)


def reply_of(asked: Inference, served: Served) -> Reply:
    """JSON, with the binary outputs behind it where there are any."""
    model = served.demand.model
    parts = [output(wanted, served.outcomes, model.manifest.labels) for wanted in asked.outputs]
    head = InferResponse(
        model_name=model.manifest.name,
        model_version=str(model.manifest.version),
        id=asked.id,
        parameters=sums(served),
        outputs=[tensor for tensor, _ in parts],
    )
    content = head.model_dump_json(exclude_none=True).encode()
    timing = b"server-timing", server_timing(served).encode()
    tails = [tail for _, tail in parts if tail is not None]
    if not tails:
        return Reply(200, content, headers=(timing,))
    length = HEADER_LENGTH.lower().encode(), b"%d" % len(content)
    body = b"".join([content, *tails])
    return Reply(200, body, b"application/octet-stream", (length, timing))


def sums(served: Served) -> dict[str, str | float | bool]:
    """What the request took in all."""
    return {
        "total_ms": milli(served.total_s),
        "energy_mj": milli(sum(outcome.energy_j for outcome in served.outcomes)),
        "energy_source": served.demand.model.energy_source,
        "met": all(is_met(served, outcome) for outcome in served.outcomes),
        **truncated(served),
        **cached(served),
    }


def truncated(served: Served) -> dict[str, int]:
    """How many of a request's texts were too long and were cut."""
    is_text = served.demand.model.manifest.input.kind == "text"
    return {"num_truncated": sum(served.are_cut)} if is_text else {}


def cached(served: Served) -> dict[str, bool]:
    """Whether the answers were kept ones, where the server keeps answers."""
    return {} if served.is_cached is None else {"cached": served.is_cached}


async def compressed(exchange: Exchange, reply: Reply) -> Reply:
    """The response in an encoding that its client accepts, if it is large enough to gain by it."""
    encoding = accepted_encoding(exchange.header(b"accept-encoding"), len(reply.body))
    if encoding is None:
        return reply
    body = await exchange.service.on_thread(partial(deflate, reply.body, encoding), "response")
    added = (b"content-encoding", encoding.encode()), (b"vary", b"Accept-Encoding")
    return replace(reply, body=body, headers=(*reply.headers, *added))


DEFAULT_VERSION = HotRoute("/v2/models/{name}/infer", infer)
GIVEN_VERSION = HotRoute("/v2/models/{name}/versions/{version}/infer", infer)
