"""What the protocol's routes answer."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ResponseModel(BaseModel):
    """What the server says."""

    model_config = ConfigDict(protected_namespaces=())


class OutputTensor(ResponseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = Field(None, description="row-major, unless it follows the JSON")
    parameters: dict[str, int] | None = None


class InferResponse(ResponseModel):
    """One row of every output per image. `parameters` sum up what the request took."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | int | float | bool]
    outputs: list[OutputTensor]


class ProtocolError(ResponseModel):
    error: str


class ServerMetadata(ResponseModel):
    name: str
    version: str
    extensions: list[str]


class Live(ResponseModel):
    live: bool


class Ready(ResponseModel):
    ready: bool


class ModelReady(ResponseModel):
    name: str
    ready: bool


class TensorMetadata(ResponseModel):
    """A tensor's form; -1 stands for any number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(ResponseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigTensor(ResponseModel):
    """A tensor in Triton's words; `dims` leave out the number of images."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(ResponseModel):
    """What Triton's tools read of a model's configuration."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class Duration(ResponseModel):
    """How often something was done, and the nanoseconds it took in all."""

    count: int
    ns: int


class InferenceStatistics(ResponseModel):
    success: Duration
    fail: Duration
    queue: Duration
    compute_infer: Duration


class BatchStatistics(ResponseModel):
    """Runs of a segment for a batch of this size."""

    batch_size: int
    compute_infer: Duration


class ModelStatistics(ResponseModel):
    """What a model did since it was loaded; `last_inference` is Unix time in milliseconds."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class StatisticsList(ResponseModel):
    model_stats: list[ModelStatistics]


class IndexEntry(ResponseModel):
    """A version on disk or served; `reason` says why it is not, or why a newer copy is not."""

    name: str
    version: str
    state: str
    reason: str
