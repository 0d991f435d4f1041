"""The server's settings: OFFRAMP_* variables and command-line options, checked once at start."""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.bundle.cores import num_cores
from models.bundle.defaults import CPU, MAX_S, WATTS_PER_CORE
from models.bundle.errors import UserError

PREFIX = "OFFRAMP_"
SHA256_BYTES = 32
NUM_CORES = num_cores()
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SECRETS = ("api_key_hashes", "management_key_hashes")
"""Settings whose values no message repeats: a key may be given by mistake."""


def split(text: object) -> object:
    """The parts of a list that is given as text with commas."""
    return tuple(filter(None, text.split(","))) if isinstance(text, str) else text


def digest(text: object) -> object:
    """The bytes of a SHA-256 in hexadecimal digits."""
    value = bytes.fromhex(text) if isinstance(text, str) else text
    if isinstance(value, bytes) and len(value) != SHA256_BYTES:
        raise ValueError("a SHA-256 has 64 hexadecimal digits")
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)]
Hashes = Annotated[
    tuple[Annotated[bytes, BeforeValidator(digest)], ...], NoDecode, BeforeValidator(split)
]


def installed(provider: str) -> str:
    """The name of an execution provider that this onnxruntime has.

    Every onnxruntime has the CPU's: the parent of several processes does without onnxruntime.
    """
    if provider == CPU:
        return provider
    if provider not in (known := import_module("onnxruntime").get_available_providers()):
        raise ValueError(f"the onnxruntime here has {', '.join(known)}")
    return provider


def possible(traces: bool) -> bool:
    """Whether to send traces; raises ValueError without an exporter or a receiver."""
    if not traces:
        return False
    try:
        import_module(EXPORTER)
    except ModuleNotFoundError as error:
        raise ValueError("traces need pip install 'offramp[traces]'") from error
    if not any(os.environ.get(variable) for variable in ENDPOINTS):
        raise ValueError(f"{ENDPOINTS[0]} must say where traces are taken")
    return True


def share_of_cores(data: dict[str, int | None]) -> int:
    """The cores of each process; at least one."""
    return max(1, NUM_CORES // (data.get("processes") or 1))


class SettingsError(UserError):
    """A setting is unknown or has a bad value; the message names it."""


class Settings(BaseSettings):
    """Serve every bundle of a directory over HTTP.

    Each option is also an OFFRAMP_* variable; the option wins.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name="offramp serve",
        cli_kebab_case=True,
    )

    zoo: Path = Field(Path("models/zoo"), description="directory of bundles, NAME/VERSION/")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    grpc_port: int | None = Field(
        None, ge=1, le=65535, description="port to listen on for gRPC; default: no gRPC"
    )
    root_path: Annotated[str, Field(pattern=r"^(/[^/?#]+)*$")] = Field(
        "", description="path that a proxy in front strips from every URL, such as /offramp"
    )
    processes: PositiveInt | None = Field(
        None,
        description="server processes behind that port; default: one per core for networks"
        " whose cost.json says less than 50 ms, else one",
    )
    workers: PositiveInt = Field(
        default_factory=share_of_cores, description="threads that run segments, in each process"
    )
    execution_provider: Annotated[str, AfterValidator(installed)] = Field(
        CPU, description="onnxruntime execution provider that runs segments"
    )
    max_in_flight: PositiveInt = Field(
        256, description="images admitted at once; more are refused with 503"
    )
    max_images: PositiveInt = Field(64, description="images in one request")
    max_body_bytes: PositiveInt = Field(8 * 2**20, description="bytes in one request body")
    max_held_bytes: PositiveInt = Field(
        128 * 2**20, description="bytes of all bodies held at once; more are refused with 503"
    )
    max_image_pixels: PositiveInt = Field(16_000_000, description="pixels in one encoded image")
    max_requests: PositiveInt = Field(
        512, description="POST requests in progress at once; more are refused with 503"
    )
    max_connections: PositiveInt = Field(
        1000, description="connections at once, probes included; more are refused with 503"
    )
    receive_timeout_s: PositiveFloat = Field(
        10, description="seconds for the headers of a request to arrive, and then for its body"
    )
    send_timeout_s: PositiveFloat = Field(
        10, description="seconds that a client may leave an answer unread before it is dropped"
    )
    api_key_hashes: Hashes = Field(
        (), description="SHA-256 of the keys for inference, hexadecimal, with commas; none: no key"
    )
    management_key_hashes: Hashes = Field(
        (), description="the same for loading and unloading models"
    )
    cors_origins: Names = Field(
        (), description="origins whose pages may call the server, with commas; none: no page"
    )
    page: bool = Field(True, description="serve the page at / that shows the exits at work")
    access_log: bool = Field(True, description="log one line per request")
    keep_alive_s: PositiveInt = Field(
        75, description="seconds that a connection may be idle; longer than a proxy in front allows"
    )
    profile_s: PositiveFloat = Field(
        MAX_S, description="seconds to measure a bundle's costs at start, about"
    )
    cache: Path = Field(
        Path("~/.cache/offramp"), description="directory that keeps measured costs, if writable"
    )
    watts_per_core: PositiveFloat = Field(
        WATTS_PER_CORE, description="active power of a core, for the energy estimate"
    )
    traces: Annotated[bool, AfterValidator(possible)] = Field(
        False, description="send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    shadow_share: float = Field(
        0.01, ge=0, le=1, description="share of confident answers run on to the last exit when idle"
    )
    stall_s: PositiveFloat = Field(
        10.0,
        description="seconds too long until a worker is replaced, or a process that says nothing",
    )
    watch_interval_s: PositiveFloat | None = Field(
        None, description="seconds between looks at the zoo for changed bundles; default: never"
    )
    drain_delay_s: NonNegativeFloat = Field(
        0, description="seconds after SIGTERM that connections are still taken, and told 503"
    )
    shutdown_grace_s: PositiveInt = Field(
        10, description="seconds then to finish requests, before each is given the answer it has"
    )

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_images > self.max_in_flight:
            raise ValueError("max_images must not exceed max_in_flight")
        if self.max_body_bytes > self.max_held_bytes:
            raise ValueError("max_body_bytes must not exceed max_held_bytes")
        return self


def load_settings(arguments: Sequence[str] = ()) -> Settings:
    """Reads the environment, then command-line arguments; raises SettingsError."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for variable in os.environ:
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            raise SettingsError(f"unknown setting {variable}; known are {', '.join(sorted(known))}")
    try:
        return Settings(_cli_parse_args=list(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
        name = ".".join(map(str, first["loc"]))
        if first["loc"][0] in SECRETS:
            raise SettingsError(f"setting {name}: {first['msg']}") from None
        raise SettingsError(f"setting {name}: {first['msg']}, not {first['input']!r}") from error
