"""The service's methods: who may call each, and what answers it.

Every method reads its messages itself, also where there is one: a key is asked for before anything
is read, a message that does not come has its time, and a damaged one is the client's error.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Never, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import StatusCode

from server.errors import BadBody, ClientGone, Unauthenticated
from server.grpc import answers
from server.grpc import open_inference_pb2 as pb
from server.grpc.calls import CODES, Call, Context, Front
from server.grpc.inference import infer, infer_by_exits
from server.grpc.translation import parse
from server.http.access import check_key, check_trusted, check_work
from server.service import Service

M = TypeVar("M", bound=Message)
Check = Callable[[Service, str], None]
Handle = Callable[[Call, bytes], Awaitable[Message]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
STREAM = "ModelStreamInfer"


def anyone(_: Service, __: str) -> None:
    """No key is needed."""


def known(service: Service, authorization: str) -> None:
    check_key(authorization, service.settings.access.api_key_hashes)


def trusted(service: Service, authorization: str) -> None:
    check_trusted(service, authorization)
    service.gate.check_open()


def parsed(kind: type[M], handle: Callable[[Call, M], Awaitable[Message]]) -> Handle:
    """What handles the bytes of a message."""

    async def handle_bytes(call: Call, message: bytes) -> Message:
        return await handle(call, parse(kind, message))

    return handle_bytes


METHODS: dict[str, tuple[Check, Handle]] = {
    "ServerLive": (anyone, parsed(pb.ServerLiveRequest, answers.server_live)),
    "ServerReady": (anyone, parsed(pb.ServerReadyRequest, answers.server_ready)),
    "ServerMetadata": (anyone, parsed(pb.ServerMetadataRequest, answers.server_metadata)),
    "ModelReady": (known, parsed(pb.ModelReadyRequest, answers.model_ready)),
    "ModelMetadata": (known, parsed(pb.ModelMetadataRequest, answers.model_metadata)),
    "ModelConfig": (known, parsed(pb.ModelConfigRequest, answers.model_config)),
    "ModelStatistics": (known, parsed(pb.ModelStatisticsRequest, answers.model_statistics)),
    "RepositoryIndex": (trusted, parsed(pb.RepositoryIndexRequest, answers.repository_index)),
    "RepositoryModelLoad": (trusted, parsed(pb.RepositoryModelLoadRequest, answers.load)),
    "RepositoryModelUnload": (trusted, parsed(pb.RepositoryModelUnloadRequest, answers.unload)),
    "ModelInfer": (check_work, infer),
}


def route_of(name: str) -> str:
    """A method's path: its label in metrics and logs."""
    return f"/{SERVICE}/{name}"


ROUTES = [route_of(name) for name in (*METHODS, STREAM)]


def handlers(front: Front) -> dict[str, Handler]:
    found: dict[str, Handler] = {name: unary(front, name) for name in METHODS}
    found[STREAM] = stream(front)
    return found


def unary(front: Front, name: str) -> Handler:
    """A method of one request and one response."""
    check, handle = METHODS[name]
    route, timeout_s = route_of(name), front.service.settings.timeouts.receive_timeout_s

    async def behave(_: AsyncIterator[bytes], context: Context) -> bytes:
        call = Call(front, context, route)
        try:
            with call.counted():
                check(front.service, call.authorization)
                message = await front.next_message(context, timeout_s)
                if message is None:
                    raise BadBody("the call has no message")
                call.hold(message)
                response = await handle(call, message)
        except Exception:
            await refuse(context, call)
        context.set_trailing_metadata(call.metadata)
        return response.SerializeToString()

    return grpc.stream_unary_rpc_method_handler(behave)


def stream(front: Front) -> Handler:
    """Requests of a stream are answered one after the other; an error ends its request alone.

    A stream without a key is ended before its first message.
    """
    route, idle_s = route_of(STREAM), front.service.settings.timeouts.keep_alive_s

    async def behave(_: AsyncIterator[bytes], context: Context) -> None:
        opening = Call(front, context, route)
        try:
            known(front.service, opening.authorization)
        except Unauthenticated:
            with suppress(Unauthenticated), opening.counted():
                raise
            await refuse(context, opening)
        while True:
            try:
                message = await front.next_message(context, idle_s)
            except Exception as error:  # nothing is counted: no request has come
                await context.abort(StatusCode.UNAVAILABLE, str(error))
            if message is None:
                return
            try:
                await answer(front, context, Call(front, context, route), message)
            except ClientGone:
                await context.abort(StatusCode.ABORTED, "the responses were left unread")

    return grpc.stream_stream_rpc_method_handler(behave)


async def answer(front: Front, context: Context, call: Call, message: bytes) -> None:
    """Sends the responses to a request of a stream, or its error; raises ClientGone."""
    try:
        with call.counted():
            check_work(front.service, call.authorization)
            call.hold(message)
            async with aclosing(infer_by_exits(call, message)) as responses:
                async for response in responses:
                    said = pb.ModelStreamInferResponse(infer_response=response)
                    await front.send(context, said.SerializeToString())
    except ClientGone:
        raise
    except Exception:
        said = pb.ModelStreamInferResponse(error_message=call.detail)
        await front.send(context, said.SerializeToString())


async def refuse(context: Context, call: Call) -> Never:
    """Ends a call with its error."""
    await context.abort(CODES[call.code], call.detail, call.metadata)
