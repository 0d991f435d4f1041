"""The generated code is that of the protocol file, and bears another of the same names."""

import sys
from pathlib import Path

from grpc_tools import protoc
from tritonclient.grpc import service_pb2 as triton

from benchmarks.process import ROOT
from server.grpc import open_inference_pb2 as pb

SOURCE = "server/grpc/open_inference"
DEFAULT, OWN = "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"


def test_the_code_is_what_make_proto_makes(tmp_path: Path) -> None:
    sinks = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    assert protoc.main(["protoc", f"-I{ROOT}", *sinks, str(ROOT / f"{SOURCE}.proto")]) == 0
    for ending in ("_pb2.py", "_pb2.pyi"):
        made = (tmp_path / f"{SOURCE}{ending}").read_text().replace(DEFAULT, OWN)
        assert (ROOT / f"{SOURCE}{ending}").read_text() == made, "run make proto"


def test_names_and_numbers_are_tritons() -> None:
    assert triton.DESCRIPTOR.package == pb.DESCRIPTOR.package
    assert pb.__name__ in sys.modules
    for name, ours in pb.DESCRIPTOR.message_types_by_name.items():
        file = (
            triton if name in triton.DESCRIPTOR.message_types_by_name else triton.model__config__pb2
        )
        theirs = file.DESCRIPTOR.message_types_by_name[name].fields_by_name
        for field in ours.fields:
            known = theirs[field.name]
            assert (field.number, field.type) == (known.number, known.type), f"{name}.{field.name}"
    service = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        known = service[method.name]
        assert method.input_type.full_name == known.input_type.full_name
        assert method.output_type.full_name == known.output_type.full_name
        assert method.client_streaming == known.client_streaming
