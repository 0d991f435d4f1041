"""gRPC's server, as this server runs it: on the same event loop, on a port of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from server.grpc import open_inference_pb2 as pb
from server.grpc.calls import Front
from server.grpc.methods import ROUTES, SERVICE, handlers
from server.grpc.watches import MAX_WATCHES, Health, Reflection, Watches
from server.http.ports import shared
from server.service import Service
from server.settings import Settings, SettingsError

LOOK_S = 0.25
"""Time between two looks at whether the server is ready, for health."""
LAST_WORDS_S = 1.0
"""How long answers may take once every job has been told to give the one it has."""
MOST = 2**31 - 1
"""Of any number that gRPC is told."""
STATUS = health_pb2.HealthCheckResponse
SERVICES = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)


@asynccontextmanager
async def listening(service: Service, port: int) -> AsyncIterator[None]:
    """Answers gRPC on the port while the context lasts; raises SettingsError.

    Processes share the port: the kernel gives each new connection to one of them.
    """
    settings, front = service.settings, Front(service)
    for route in ROUTES:
        service.metrics.route_known(route)
    server = grpc.aio.server(
        options=options(settings),
        maximum_concurrent_rpcs=min(settings.limits.max_connections + MAX_WATCHES, MOST),
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, handlers(front)),)
    )
    watches = Watches()
    servicer = Health(watches)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        Reflection(watches, SERVICES, described()), server
    )
    bind(server, settings.address.host, port)
    await server.start()
    watching = asyncio.create_task(tell(servicer, service))
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        front.end()
        await server.stop(settings.timeouts.shutdown_grace_s + LAST_WORDS_S)


def options(settings: Settings) -> list[tuple[str, int]]:
    idle_ms = min(1000 * settings.timeouts.keep_alive_s, MOST)
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", min(settings.limits.max_body_bytes, MOST)),
        ("grpc.max_connection_idle_ms", idle_ms),
        ("grpc.keepalive_time_ms", idle_ms),
    ]


def bind(server: grpc.aio.Server, host: str, port: int) -> None:
    """Binds every address of the host. gRPC takes `0.0.0.0` for IPv6's addresses as well."""
    sockets = shared(host, port)
    try:
        for sock in sockets:
            address = sock.getsockname()[0]
            server.add_insecure_port(
                f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            )
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {host} port {port} for gRPC: {error}") from error
    finally:
        for sock in sockets:
            sock.close()


def described() -> DescriptorPool:
    """All that reflection tells of, in one pool."""
    pool = DescriptorPool()
    for file in (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool


async def tell(servicer: Health, service: Service) -> None:
    """Keeps health up to date, of the server and of its service."""
    while True:
        is_ready = service.reason_against() is None
        for name in ("", SERVICE):
            await servicer.set(name, STATUS.SERVING if is_ready else STATUS.NOT_SERVING)
        await asyncio.sleep(LOOK_S)
