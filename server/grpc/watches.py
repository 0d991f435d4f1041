"""Health and reflection: streams that need no key, and that may stay open for ever."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc import StatusCode
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

MAX_WATCHES = 100
"""Open at once, in each process. All other calls have as much room as they would have alone."""


class Watches:
    """How many streams are open."""

    def __init__(self) -> None:
        self._num_open = 0

    @asynccontextmanager
    async def opened(self, context: Any) -> AsyncIterator[None]:  # noqa: ANN401
        """Counts a stream until it ends; a stream too many is ended at once."""
        if self._num_open >= MAX_WATCHES:
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHES} watches are open")
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    def __init__(self, watches: Watches) -> None:
        super().__init__()
        self._watches = watches

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: ANN401, N802
        async with self._watches.opened(context):
            await super().Watch(request, context)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    def __init__(self, watches: Watches, services: tuple[str, ...], pool: DescriptorPool) -> None:
        super().__init__(services, pool)
        self._watches = watches

    async def ServerReflectionInfo(  # noqa: N802
        self,
        requests: Any,  # noqa: ANN401
        context: Any,  # noqa: ANN401
    ) -> AsyncIterator[Any]:
        async with self._watches.opened(context):
            async for response in super().ServerReflectionInfo(requests, context):
                yield response
