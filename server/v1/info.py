"""`GET /v1/models`."""

from base64 import b64encode
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import PositiveInt

from models.bundle.image_input import ImageInput
from models.bundle.manifest import Manifest
from models.bundle.records import Graph
from models.bundle.text_input import TextInput
from server.engine.model import ServedModel
from server.http.access import known
from server.http.problems import FEW_RESPONSES
from server.http.wording import milli
from server.service import Service, service_of
from server.v1.classify import PATH
from server.v1.examples import example_of
from server.v1.schemas import (
    CalibrationInfo,
    ExitInfo,
    GraphInfo,
    ImageInfo,
    ModelInfo,
    ModelList,
    OperatingPointInfo,
    RequestExample,
    TensorInfo,
    TextInfo,
    VersionInfo,
)

router = APIRouter(tags=["Models"], dependencies=[Depends(known)], responses=FEW_RESPONSES)
Name = Annotated[str, Path(description="Name of the model.")]
Version = Annotated[
    PositiveInt | None,
    Query(description="Version of the model, from 1. Default: the highest that is served."),
]


@router.get("/v1/models")
async def models(request: Request) -> ModelList:
    """Every model: labels, input, exits with accuracy and cost, operating points."""
    service = service_of(request)
    return ModelList(models=[model_info(service, n) for n in service.repository.catalog.names()])


@router.get("/v1/models/{name}")
async def model(request: Request, name: Name) -> ModelInfo:
    """One model: labels, input, exits with accuracy and cost, operating points."""
    service = service_of(request)
    service.find(name, None)
    return model_info(service, name)


@router.get("/v1/models/{name}/calibration")
async def calibration(request: Request, name: Name, version: Version = None) -> CalibrationInfo:
    """What every exit said of every row of the calibration split."""
    return calibration_info(service_of(request).find(name, version))


def model_info(service: Service, name: str) -> ModelInfo:
    """The versions of one model, highest first."""
    versions, settings = service.repository.catalog.versions(name), service.settings
    infos = [
        version_info(model, settings.limits.max_text_characters) for model in reversed(versions)
    ]
    return ModelInfo(name=name, versions=infos)


def input_info(manifest: Manifest, max_characters: int) -> ImageInfo | TextInfo | TensorInfo:
    """What the model takes."""
    takes = manifest.input
    if isinstance(takes, ImageInput):
        return ImageInfo.model_validate(takes, from_attributes=True)
    if isinstance(takes, TextInput):
        return TextInfo(
            kind=takes.kind,
            lengths=takes.length_buckets,
            max_tokens=takes.length_buckets[-1],
            max_characters=max_characters,
        )
    return TensorInfo.model_validate(takes, from_attributes=True)


def example_request(manifest: Manifest) -> RequestExample | None:
    """A request that the model answers; None where its rows are too long to write down."""
    query = urlencode({"model": manifest.name, "version": manifest.version})
    body = example_of(manifest.input)
    return None if body is None else RequestExample(path=f"{PATH}?{query}", body=body)


def calibration_info(model: ServedModel) -> CalibrationInfo:
    fitted = model.bundle.calibration
    rows = fitted.rows
    return CalibrationInfo(
        version=model.manifest.version,
        num_rows=fitted.num_rows,
        num_exits=model.manifest.num_exits,
        confidences=None if rows is None else b64encode(rows.confidences).decode(),
        is_right=None if rows is None else b64encode(rows.is_right).decode(),
    )


def version_info(model: ServedModel, max_characters: int) -> VersionInfo:
    manifest = model.manifest
    return VersionInfo(
        version=manifest.version,
        input=input_info(manifest, max_characters),
        example=example_request(manifest),
        labels=manifest.labels,
        judged_by=model.bundle.calibration.judged_by,
        confidence=model.bundle.calibration.confidence,
        exits=exit_infos(model),
        overhead_ms=milli(model.costs.overhead_s),
        energy_source=model.energy_source,
        operating_points={
            name: OperatingPointInfo.model_validate(point, from_attributes=True)
            for name, point in model.operating_points.items()
        },
    )


def exit_infos(model: ServedModel) -> list[ExitInfo]:
    """Every exit, with what one row costs on its own."""
    manifest, costs, exits = model.manifest, model.costs, list[ExitInfo]()
    macs, seconds = 0, 0.0
    for segment, head, fitted in zip(
        manifest.segments, manifest.exit_heads, model.bundle.calibration.exits, strict=True
    ):
        segment_s, head_s = costs.segment_s(segment.exit, 1), costs.head_s(segment.exit, 1)
        macs, seconds = macs + segment.macs, seconds + segment_s
        exits.append(
            ExitInfo(
                exit=segment.exit,
                accuracy=fitted.accuracy,
                macs=macs + head.macs,
                latency_ms=milli(seconds + head_s),
                segment=graph_info(model, segment, segment_s),
                head=graph_info(model, head, head_s),
            )
        )
    return exits


def graph_info(model: ServedModel, graph: Graph, seconds: float) -> GraphInfo:
    return GraphInfo(
        macs=graph.macs,
        latency_ms=milli(seconds),
        energy_mj=milli(model.costs.energy_j(seconds, 1)),
    )
