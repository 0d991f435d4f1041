"""`GET /v1/models`."""

from fastapi import APIRouter, Depends, Request

from server.engine.model import ServedModel
from server.http.access import known
from server.http.problems import FEW_RESPONSES
from server.service import service_of
from server.v1.schemas import (
    ExitInfo,
    InputInfo,
    ModelInfo,
    ModelList,
    OperatingPointInfo,
    VersionInfo,
)

router = APIRouter(dependencies=[Depends(known)], responses=FEW_RESPONSES)


@router.get("/v1/models")
async def models(request: Request) -> ModelList:
    """Every model served."""
    catalog = service_of(request).repository.catalog
    return ModelList(models=[model_info(catalog.versions(name)) for name in catalog.names()])


@router.get("/v1/models/{name}")
async def model(request: Request, name: str) -> ModelInfo:
    """One model: labels, input, exits with accuracy and cost, operating points."""
    service = service_of(request)
    service.find(name, None)
    return model_info(service.repository.catalog.versions(name))


def model_info(versions: list[ServedModel]) -> ModelInfo:
    """Versions of one model, given lowest first."""
    return ModelInfo(
        name=versions[0].manifest.name, versions=[version_info(v) for v in reversed(versions)]
    )


def version_info(model: ServedModel) -> VersionInfo:
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
        input=InputInfo.model_validate(manifest.input, from_attributes=True),
        labels=manifest.labels,
        judged_by=model.bundle.calibration.judged_by,
        exits=exits,
        operating_points={
            name: OperatingPointInfo.model_validate(point, from_attributes=True)
            for name, point in model.operating_points.items()
        },
    )
