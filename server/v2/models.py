"""`/v2/models/NAME`, with or without `/versions/VERSION`: metadata, readiness, statistics."""

import time
from collections.abc import Iterable
from typing import Annotated

from fastapi import Path, Request

from models.bundle.manifest import version_of
from server.engine.model import ServedModel
from server.errors import NotReady, UnknownModel
from server.service import Service, service_of
from server.telemetry.metrics import Metrics
from server.telemetry.statistics import Tally
from server.v2.inputs import Expected, expected_inputs
from server.v2.response_schemas import (
    BatchStatistics,
    ConfigTensor,
    Duration,
    InferenceStatistics,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    StatisticsList,
    TensorMetadata,
)
from server.v2.wanted import OUTPUT_DATATYPES

Name = Annotated[str, Path(description="Name of the model.")]
Version = Annotated[str, Path(description="Version of the model, a whole number from 1.")]
PLATFORM = "onnx_onnxv1"
TRITON_NAMES = {"BYTES": "STRING"}
"""Datatypes that a model's configuration calls otherwise than its metadata."""


async def default_version(request: Request, name: Name) -> None:
    """Finds the model of a path without a version."""
    request.state.model = service_of(request).find(name, None)


async def given_version(request: Request, name: Name, version: Version) -> None:
    """Finds the model of a path with one."""
    number = version_of(version)
    if number is None:
        raise UnknownModel(f"versions are numbers, not {version!r}", "version")
    request.state.model = service_of(request).find(name, number)


def model_of(request: Request) -> ServedModel:
    model: ServedModel = request.state.model
    return model


async def metadata(request: Request) -> ModelMetadata:
    """The model's versions, its input and its outputs."""
    return metadata_of(service_of(request), model_of(request))


async def config(request: Request) -> ModelConfig:
    """The same as Triton's tools ask for it."""
    return config_of(service_of(request), model_of(request))


async def ready(request: Request) -> ModelReady:
    """200 while the model is served and can answer."""
    model = model_of(request)
    if reason := model.reason_against(time.monotonic()):
        raise NotReady(reason)
    return ModelReady(name=model.manifest.name, ready=True)


async def statistics(request: Request) -> StatisticsList:
    """What a version did since it was loaded, by default every version of the model."""
    model, service = model_of(request), service_of(request)
    is_given = "version" in request.path_params
    versions = [model] if is_given else service.repository.catalog.versions(model.manifest.name)
    return statistics_list(service, versions)


async def every_statistics(request: Request) -> StatisticsList:
    """What every model did since it was loaded."""
    service = service_of(request)
    return statistics_list(service, service.repository.catalog)


def metadata_of(service: Service, model: ServedModel) -> ModelMetadata:
    catalog = service.repository.catalog
    manifest = model.manifest
    shapes = {"probabilities": [-1, len(manifest.labels)]}
    return ModelMetadata(
        name=manifest.name,
        versions=[str(other.manifest.version) for other in catalog.versions(manifest.name)],
        platform=PLATFORM,
        inputs=[input_metadata(expected) for expected in expected_inputs(manifest)],
        outputs=[
            TensorMetadata(name=name, datatype=datatype, shape=shapes.get(name, [-1]))
            for name, datatype in OUTPUT_DATATYPES.items()
        ],
    )


def config_of(service: Service, model: ServedModel) -> ModelConfig:
    said = metadata_of(service, model)
    return ModelConfig(
        name=said.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=service.settings.limits.max_images,
        input=[config_tensor(tensor) for tensor in said.inputs],
        output=[config_tensor(tensor) for tensor in said.outputs],
    )


def statistics_list(service: Service, models: Iterable[ServedModel]) -> StatisticsList:
    said = [statistics_of(service.metrics, model) for model in models]
    return StatisticsList(model_stats=said)


def input_metadata(expected: Expected) -> TensorMetadata:
    """In the first of its datatypes: images can also come as BYTES."""
    datatype, *_ = expected.datatypes
    return TensorMetadata(name=expected.name, datatype=datatype, shape=[-1, *expected.shape])


def config_tensor(tensor: TensorMetadata) -> ConfigTensor:
    kind = TRITON_NAMES.get(tensor.datatype, tensor.datatype)
    return ConfigTensor(name=tensor.name, data_type=f"TYPE_{kind}", dims=tensor.shape[1:] or [1])


def statistics_of(metrics: Metrics, model: ServedModel) -> ModelStatistics:
    """A segment run for a batch is an execution."""
    said = metrics.statistics(model)
    compute, batches = said.of("compute"), said.batch_sizes()
    return ModelStatistics(
        name=model.manifest.name,
        version=str(model.manifest.version),
        last_inference=int(1000 * said.last_inference),
        inference_count=compute.count,
        execution_count=sum(tally.count for _, tally in batches),
        inference_stats=InferenceStatistics(
            success=duration(said.of("success")),
            fail=duration(said.of("fail")),
            queue=duration(said.of("queue")),
            compute_infer=duration(compute),
        ),
        batch_stats=[
            BatchStatistics(batch_size=rows, compute_infer=duration(tally))
            for rows, tally in batches
        ],
    )


def duration(tally: Tally) -> Duration:
    return Duration(count=tally.count, ns=int(1e9 * tally.seconds))
