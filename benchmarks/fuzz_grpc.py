"""Hostile messages over gRPC: random ones of every method, good ones with damage, and noise.

python -m benchmarks.fuzz_grpc models/zoo --cases 10000
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from tritonclient.grpc import service_pb2 as triton

from benchmarks.damage import edited
from benchmarks.process import free_port, resident_mib, serving
from models.bundle.bundle import load_bundle
from models.bundle.manifest import Manifest
from models.bundle.profile import hardware
from server.http.problems import UNEXPECTED
from server.zoo.directory import find_bundles

SERVICE = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"]
STREAM = "ModelStreamInfer"
METHODS = (
    "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig",
    "ModelStatistics", "ModelInfer", STREAM, "RepositoryIndex", "RepositoryModelLoad",
    "RepositoryModelUnload",
)  # fmt: skip
FAILURES = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Codes that blame the server."""
MAX_DEPTH = 4
TEXTS = (
    "", "images", "UINT8", "FP32", "BYTES", "probabilities", "label", "exit", "stop_reason",
    "timeout", "priority", "latency_budget_ms", "operating_point", "threshold", "max_exit",
    "strict", "classification", "binary_data_size", "version", "fast", "1", "0", "-1", "\x00", "ü",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 8, 32, 64, 65, 255, 256, 2**31 - 1)
LIMIT_S = 60.0
Case = tuple[str, bytes]
"""A method, and its message."""

app = typer.Typer()


@app.command()
def main(
    zoo: Annotated[Path, typer.Argument(help="Bundles to serve.")],
    cases: Annotated[int, typer.Option(help="Messages to send.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the messages.")] = 0,
) -> None:
    """Prints how many messages got which code; fails where one is the server's fault."""
    port = free_port()
    with serving(zoo, grpc_port=port, access_log=False) as server:
        before = resident_mib(server.process.pid)
        manifest = load_bundle(next(iter(find_bundles(zoo).values()))).manifest
        codes = fuzz(f"127.0.0.1:{port}", manifest, cases, seed)
        after = resident_mib(server.process.pid)
    print(f"{hardware()}: {codes.total()} messages: {dict(sorted(codes.items()))}")
    print(f"resident {before:.1f} MiB when ready, {after:.1f} MiB at the end")


def fuzz(address: str, manifest: Manifest, num_cases: int, seed: int = 0) -> Counter[str]:
    """How many messages got which code; every method gets as many."""
    generator, codes = random.Random(seed), Counter[str]()
    with grpc.insecure_channel(address) as channel:
        for number in range(num_cases):
            name = METHODS[number % len(METHODS)]
            message = message_for(name, manifest, generator)
            code = called(channel, name, message)
            assert code not in FAILURES, (name, code, message)
            codes[code.name] += 1
    return codes


def called(
    channel: Any,  # noqa: ANN401
    name: str,
    message: bytes,
) -> grpc.StatusCode:
    """The code of a call; an error within a stream is INVALID_ARGUMENT or, unexpected, INTERNAL."""
    path = f"/{SERVICE.full_name}/{name}"
    try:
        if name != STREAM:
            channel.unary_unary(path)(message, timeout=LIMIT_S)
            return grpc.StatusCode.OK
        for said in channel.stream_stream(path)(iter([message]), timeout=LIMIT_S):
            error = triton.ModelStreamInferResponse.FromString(said).error_message
            if error:
                is_own = error == UNEXPECTED
                return grpc.StatusCode.INTERNAL if is_own else grpc.StatusCode.INVALID_ARGUMENT
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def message_for(name: str, manifest: Manifest, generator: random.Random) -> bytes:
    """A third each: made at random from the schema, good but for some damage, and noise."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: made(getattr(triton, f"{request_of(name)}"), generator).SerializeToString(),
        lambda: damaged(good(name, manifest).SerializeToString(), generator),
        lambda: generator.randbytes(generator.randrange(64)),
    )
    return generator.choice(kinds)()


def request_of(name: str) -> str:
    kind: str = SERVICE.methods_by_name[name].input_type.name
    return kind


def good(name: str, manifest: Manifest) -> Any:  # noqa: ANN401
    """A request that is answered; no model is unloaded, or nothing would be left to ask."""
    if name in ("ModelInfer", STREAM):
        return inference(manifest)
    kind = getattr(triton, request_of(name))
    if name.startswith("Repository"):
        return (
            kind(model_name="absent") if "model_name" in kind.DESCRIPTOR.fields_by_name else kind()
        )
    if "name" in kind.DESCRIPTOR.fields_by_name:
        return kind(name=manifest.name, version=str(manifest.version))
    return kind()


def inference(manifest: Manifest) -> Any:  # noqa: ANN401
    _, *shape = manifest.segments[0].inputs[0].shape
    content = bytes(shape[0] * shape[1] * shape[2])
    request = triton.ModelInferRequest(model_name=manifest.name, raw_input_contents=[content])
    request.inputs.add(name="images", datatype="UINT8", shape=[1, *shape])
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
    request.parameters["timeout"].int64_param = 20_000
    return request


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Bytes changed, cut out and put in, once or a few times, or not at all."""
    edits = [
        (generator.random(), generator.randrange(5), generator.randbytes(generator.randrange(4)))
        for _ in range(generator.randrange(4))
    ]
    return edited(content, edits)


def made(kind: Any, generator: random.Random, depth: int = 0) -> Any:  # noqa: ANN401
    """A message with some of its fields, each of a value that means something somewhere."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if generator.random() < 0.4 or depth > MAX_DEPTH:
            continue
        values = [value_of(field, generator, depth) for _ in range(generator.randrange(1, 3))]
        target = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            kind_of = type(target.get_or_create("x")) if field.is_repeated else kind
            target.clear()
            target[generator.choice(TEXTS)].CopyFrom(made(kind_of, generator, depth + 1))
        elif field.is_repeated:
            target.extend(values)
        elif field.message_type is not None:
            target.CopyFrom(values[0])
        else:
            setattr(message, field.name, values[0])
    return message


def value_of(field: Any, generator: random.Random, depth: int) -> Any:  # noqa: ANN401
    """A value of a field; None of a map's, whose entries are no values."""
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            return None
        return made(field.message_type._concrete_class, generator, depth + 1)
    if field.cpp_type == field.CPPTYPE_STRING:
        text = generator.choice(TEXTS)
        return text if field.type == field.TYPE_STRING else text.encode()
    if field.cpp_type == field.CPPTYPE_BOOL:
        return generator.random() < 0.5
    number = generator.choice(NUMBERS)
    is_signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_DOUBLE)
    return -number if is_signed and generator.random() < 0.3 else number


if __name__ == "__main__":
    app()
