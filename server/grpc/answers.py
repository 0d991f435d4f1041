"""What the service answers beside inference: the answers of `/v2` as messages."""

import time
from importlib.metadata import version

from server.errors import NotReady, UnknownModel
from server.grpc import open_inference_pb2 as pb
from server.grpc.calls import Call
from server.grpc.inference import find
from server.grpc.translation import values_of
from server.v2.manage import index_of, version_asked
from server.v2.models import config_of, metadata_of, statistics_list
from server.v2.routes import EXTENSIONS


async def server_live(_: Call, __: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
    return pb.ServerLiveResponse(live=True)


async def server_ready(call: Call, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
    return pb.ServerReadyResponse(ready=call.service.reason_against() is None)


async def server_metadata(_: Call, __: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(
        name="offramp", version=version("offramp"), extensions=EXTENSIONS
    )


async def model_ready(call: Call, asked: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
    """Not ready is an answer here, where `/v2` has an error."""
    try:
        model = find(call.service, asked.name, asked.version)
    except (NotReady, UnknownModel):
        return pb.ModelReadyResponse(ready=False)
    return pb.ModelReadyResponse(ready=model.reason_against(time.monotonic()) is None)


async def model_metadata(call: Call, asked: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
    said = metadata_of(call.service, find(call.service, asked.name, asked.version))
    return pb.ModelMetadataResponse(**said.model_dump())


async def model_config(call: Call, asked: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
    said = config_of(call.service, find(call.service, asked.name, asked.version))
    return pb.ModelConfigResponse(config=pb.ModelConfig(**said.model_dump()))


async def model_statistics(
    call: Call, asked: pb.ModelStatisticsRequest
) -> pb.ModelStatisticsResponse:
    catalog = call.service.repository.catalog
    if not asked.name and not asked.version:
        models = list(catalog)
    else:
        model = find(call.service, asked.name, asked.version)
        models = [model] if asked.version else catalog.versions(model.manifest.name)
    return pb.ModelStatisticsResponse(**statistics_list(call.service, models).model_dump())


async def repository_index(
    call: Call, asked: pb.RepositoryIndexRequest
) -> pb.RepositoryIndexResponse:
    said = await index_of(call.service, only_ready=asked.ready)
    return pb.RepositoryIndexResponse(
        models=[pb.RepositoryIndexResponse.ModelIndex(**entry.model_dump()) for entry in said]
    )


async def load(call: Call, asked: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
    version = version_asked(values_of(asked.parameters))
    await call.service.repository.load(asked.model_name, version)
    return pb.RepositoryModelLoadResponse()


async def unload(
    call: Call, asked: pb.RepositoryModelUnloadRequest
) -> pb.RepositoryModelUnloadResponse:
    version = version_asked(values_of(asked.parameters))
    await call.service.repository.unload(asked.model_name, version)
    return pb.RepositoryModelUnloadResponse()
