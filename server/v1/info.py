"""`GET /v1/models`."""

from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request

from models.bundle.manifest import Input, Manifest, TextInput
from server.engine.model import ServedModel
from server.http.access import known
from server.http.problems import FEW_RESPONSES
from server.service import Service, service_of
from server.v1.classify import PATH
from server.v1.examples import example_of
from server.v1.schemas import (
    ExitInfo,
    ImageInfo,
    ModelInfo,
    ModelList,
    OperatingPointInfo,
    RequestExample,
    TensorInfo,
    TextInfo,
    VersionInfo,
)

router = APIRouter(dependencies=[Depends(known)], responses=FEW_RESPONSES)


@router.get("/v1/models")
async def models(request: Request) -> ModelList:
    """Every model served."""
    service = service_of(request)
    return ModelList(models=[model_info(service, n) for n in service.repository.catalog.names()])


@router.get("/v1/models/{name}")
async def model(request: Request, name: str) -> ModelInfo:
    """One model: labels, input, exits with accuracy and cost, operating points."""
    service = service_of(request)
    service.find(name, None)
    return model_info(service, name)


def model_info(service: Service, name: str) -> ModelInfo:
    """The versions of one model, highest first."""
    versions, settings = service.repository.catalog.versions(name), service.settings
    infos = [version_info(model, settings.max_text_characters) for model in reversed(versions)]
    return ModelInfo(name=name, versions=infos)


def input_info(manifest: Manifest, max_characters: int) -> ImageInfo | TextInfo | TensorInfo:
    """What the model takes."""
    takes = manifest.input
    if isinstance(takes, Input):
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


def version_info(model: ServedModel, max_characters: int) -> VersionInfo:
    manifest = model.manifest
    macs, exits = 0, []
    for segment, head, fitted in zip(
        manifest.segments, manifest.exit_heads, model.bundle.calibration.exits, strict=True
    ):
        macs += segment.macs
        seconds = sum(model.costs.segment_s(k, 1) for k in range(1, segment.exit + 1))
        seconds += model.costs.head_s(segment.exit, 1)
        exits.append(
            ExitInfo(
                exit=segment.exit,
                accuracy=fitted.accuracy,
                macs=macs + head.macs,
                latency_ms=round(1000 * seconds, 3),
            )
        )
    return VersionInfo(
        version=manifest.version,
        input=input_info(manifest, max_characters),
        example=example_request(manifest),
        labels=manifest.labels,
        judged_by=model.bundle.calibration.judged_by,
        exits=exits,
        operating_points={
            name: OperatingPointInfo.model_validate(point, from_attributes=True)
            for name, point in model.operating_points.items()
        },
    )
