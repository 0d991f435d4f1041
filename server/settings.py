"""The server's settings: a frozen record per layer, read from OFFRAMP_* variables once at start."""

import os
import re
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from models.bundle.cores import num_cores
from models.bundle.defaults import CPU, MAX_S, WATTS_PER_CORE, default_cache
from models.bundle.errors import UserError

PREFIX = "OFFRAMP_"
SIMILAR = 0.85
"""How alike, 0 to 1, a misspelt variable and a setting's are; all share the prefix."""
SHA256 = re.compile(r"[\da-f]{64}", re.IGNORECASE | re.ASCII)
NUM_CORES = num_cores()
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SECRETS = ("api_key_hashes", "management_key_hashes")
"""Settings whose values no message repeats: a key may be given by mistake."""
PREFIX_PATH = re.compile(r"(/[^/?#]+)*")
ORIGIN = re.compile(r"\*|null|[a-z][a-z\d+.-]*://[^\s/?#*]+")
"""As browsers say it, but for `*`, which is all."""
HERE = Path("models/zoo")
SHIPPED = Path(__file__).parents[1] / HERE
"""The bundles that come with the package; in a checkout, the same directory."""


def split(text: object) -> object:
    """The parts of a list that is given as text with commas."""
    return tuple(filter(None, map(str.strip, text.split(",")))) if isinstance(text, str) else text


def hashes(text: object) -> object:
    """The parts of a list of hashes. An empty list would let everyone in by mistake."""
    parts = split(text)
    if isinstance(text, str) and not parts:
        raise ValueError("there is no hash; without the variable no key is needed")
    return parts


def digest(text: object) -> object:
    """The bytes of a SHA-256 in hexadecimal digits."""
    if isinstance(text, str) and SHA256.fullmatch(text) is None:
        raise ValueError("a SHA-256 has 64 hexadecimal digits")
    return bytes.fromhex(text) if isinstance(text, str) else text


def origin(text: str) -> str:
    """The origin of a page, in small letters; raises ValueError for what no browser would say."""
    if ORIGIN.fullmatch(text.lower()) is None:
        raise ValueError("an origin is like https://app.example:8443, without a path, or *")
    return text.lower()


def path_prefix(text: str) -> str:
    """Checks the path that a proxy strips; raises ValueError for any other text."""
    if PREFIX_PATH.fullmatch(text) is None:
        raise ValueError("a path is like /offramp, without a slash at its end")
    return text


def filled(text: object) -> object:
    """Refuses an empty text: as a path it would mean here, as a host every address."""
    if text == "":
        raise ValueError("at least one character is needed")
    return text


def at_home(path: Path) -> Path:
    """Expands `~` or `~NAME`; raises ValueError where that home directory is unknown."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("no home directory is known for its ~") from error


Filled = BeforeValidator(filled)
Place = Annotated[Path, Filled, AfterValidator(at_home)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(origin)], ...], BeforeValidator(split)]
Hashes = Annotated[tuple[Annotated[bytes, BeforeValidator(digest)], ...], BeforeValidator(hashes)]


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


def default_zoo() -> Path:
    """Where `offramp export` writes by default, else the shipped bundles."""
    return HERE if HERE.is_dir() else SHIPPED


def share_of_cores(data: dict[str, int | None]) -> int:
    """The cores of each process; at least one."""
    return max(1, NUM_CORES // (data.get("processes") or 1))


class SettingsError(UserError):
    """A setting is unknown or has a bad value; the message names it."""


class Record(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Settings of one layer; numbers are finite.

    Each description names the unit, and a default that is computed.
    """


class Models(Record):
    zoo: Place = Field(
        default_factory=default_zoo,
        description="Directory of bundles, NAME/VERSION/. Default: models/zoo here, else the"
        " bundles that come with the package.",
    )
    watch_interval_s: PositiveFloat | None = Field(
        None,
        description="Seconds between looks at the zoo for changed bundles. Default: never look.",
    )
    cache: Place = Field(
        default_factory=default_cache,
        description="Directory that keeps measured costs, if writable. Default: offramp in the"
        " user's caches, ~/.cache or $XDG_CACHE_HOME.",
    )
    profile_s: PositiveFloat = Field(
        MAX_S, description="Seconds to measure the costs of a bundle at start, about."
    )
    shadow_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of confident answers that also run to the last exit, when idle.",
    )


class Address(Record):
    host: Annotated[str, Filled] = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    grpc_port: int | None = Field(
        None, ge=1, le=65535, description="Port to listen on for gRPC. Default: no gRPC."
    )
    root_path: Annotated[str, AfterValidator(path_prefix)] = Field(
        "", description="Path that a proxy in front strips from every URL, such as /offramp."
    )
    page: bool = Field(True, description="Serve the page at / that shows the exits at work.")


class Cores(Record):
    processes: PositiveInt | None = Field(
        None,
        description="Server processes behind the port. Default: one per core if a network"
        " takes under 50 ms a row, or under 9 ms a segment, by its cost.json; else one.",
    )
    workers: PositiveInt = Field(
        default_factory=share_of_cores,
        description="Threads that run segments, in each process. Default: cores / processes.",
    )
    execution_provider: Annotated[str, AfterValidator(installed)] = Field(
        CPU, description="Execution provider of onnxruntime that runs segments."
    )
    watts_per_core: PositiveFloat = Field(
        WATTS_PER_CORE, description="Active power of a core in watts, for the energy estimate."
    )
    stall_s: PositiveFloat = Field(
        10.0,
        description="Seconds without a sign of life after which a thread that runs segments, or a"
        " process, is replaced.",
    )


class Limits(Record):
    max_in_flight: PositiveInt = Field(
        256,
        description="Rows (images, texts, numbers) admitted at once, in each process; more are"
        " refused with 503.",
    )
    max_images: PositiveInt = Field(
        64, description="Rows in one request: images, texts or rows of numbers."
    )
    max_body_bytes: PositiveInt = Field(8 * 2**20, description="Bytes in one request body.")
    max_held_bytes: PositiveInt = Field(
        128 * 2**20, description="Bytes of all bodies held at once; more are refused with 503."
    )
    max_cached_bytes: NonNegativeInt = Field(
        0, description="Bytes of answers kept for identical inputs, in each process; 0 keeps none."
    )
    max_image_pixels: PositiveInt = Field(16_000_000, description="Pixels in one encoded image.")
    max_text_characters: PositiveInt = Field(20_000, description="Characters in one text.")
    max_requests: PositiveInt = Field(
        512, description="POST requests in progress at once; more are refused with 503."
    )
    max_connections: PositiveInt = Field(
        1000,
        description="Connections served at once, in each process; on more, all requests but probes"
        " are refused with 503.",
    )

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        for part, whole in (("max_images", "max_in_flight"), ("max_body_bytes", "max_held_bytes")):
            if (value := getattr(self, part)) > (limit := getattr(self, whole)):
                raise ValueError(f"{variable(part)}, {value}, exceeds {variable(whole)}, {limit}")
        return self


class Timeouts(Record):
    receive_timeout_s: PositiveFloat = Field(
        10, description="Seconds for the headers of a request to arrive, and then for its body."
    )
    send_timeout_s: PositiveFloat = Field(
        10, description="Seconds that a client may leave an answer unread before it is dropped."
    )
    keep_alive_s: PositiveInt = Field(
        75,
        description="Seconds that a connection may be idle; set it longer than a proxy in front"
        " does.",
    )
    drain_delay_s: NonNegativeFloat = Field(
        0, description="Seconds after SIGTERM in which connections are still taken, and told 503."
    )
    shutdown_grace_s: PositiveInt = Field(
        10, description="Seconds after that to finish requests; then each gets the answer it has."
    )


class Access(Record):
    api_key_hashes: Hashes = Field(
        (),
        description="SHA-256 of each key for inference, in hexadecimal, separated by commas."
        " Default: no key is needed.",
    )
    management_key_hashes: Hashes = Field(
        (),
        description="SHA-256 of each key for loading and unloading models, likewise."
        " Default: no key is needed, but where inference needs one no client may.",
    )
    cors_origins: Origins = Field(
        (),
        description="Origins whose pages may call the server, such as https://app.example,"
        " separated by commas; * is all. Default: none.",
    )


class Telemetry(Record):
    access_log: bool = Field(True, description="Log one line per request.")
    traces: Annotated[bool, AfterValidator(possible)] = Field(
        False, description="Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT."
    )


class Settings(Record):
    """All settings. No two records have a setting of the same name: variables name it alone."""

    models: Models = Field(default_factory=Models)
    address: Address = Field(default_factory=Address)
    cores: Cores = Field(default_factory=Cores)
    limits: Limits = Field(default_factory=Limits)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    access: Access = Field(default_factory=Access)
    telemetry: Telemetry = Field(default_factory=Telemetry)


def records() -> dict[str, type[Record]]:
    """The record of each layer, by the layer's name."""
    kinds = {layer: field.annotation for layer, field in Settings.model_fields.items()}
    return {
        layer: kind
        for layer, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, Record)
    }


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name}".upper()


def variables() -> dict[str, str]:
    """The settings' names by their environment variables."""
    return {variable(name): name for record in records().values() for name in record.model_fields}


def load_settings(**given: object) -> Settings:
    """Reads the environment; settings given by name win. Raises SettingsError."""
    names = variables()
    for text in os.environ:
        if text.upper().startswith(PREFIX) and text not in names:
            near = get_close_matches(text.upper(), names, n=1, cutoff=SIMILAR)
            hint = f"did you mean {near[0]}?" if near else "offramp serve --help lists all"
            raise SettingsError(f"unknown setting {text}; {hint}")
    found = {name: os.environ[text] for text, name in names.items() if text in os.environ} | given
    try:
        return Settings.model_validate(
            {
                layer: {name: found[name] for name in record.model_fields if name in found}
                for layer, record in records().items()
            }
        )
    except ValidationError as error:
        raise SettingsError(sentence(error)) from None


def sentence(error: ValidationError) -> str:
    """What is wrong with the first bad setting; a secret is not repeated."""
    first = error.errors()[0]
    _, *place = first["loc"]
    if not place:
        return first["msg"].removeprefix("Value error, ")
    value = "" if place[0] in SECRETS else f" (given: {first['input']!r})"
    name, *rest = place
    setting = ".".join([variable(str(name)), *map(str, rest)])
    return f"{setting}: {first['msg'].removeprefix('Value error, ')}{value}"
