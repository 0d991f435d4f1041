"""Which outputs a request wants, and how. Pure."""

from dataclasses import dataclass

from models.bundle.manifest import Manifest
from server.errors import BadParameter
from server.v2.request_schemas import RequestedOutput

OUTPUT_DATATYPES = {
    "probabilities": "FP32",
    "label": "BYTES",
    "exit": "INT32",
    "confidence": "FP32",
    "stop_reason": "BYTES",
}
"""Every output there is. One row of each per image, exits numbered from 1."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output asked for; `classification` turns probabilities into that many best labels."""

    name: str
    is_binary: bool
    classification: int | None = None


def wanted(outputs: list[RequestedOutput], manifest: Manifest, *, are_binary: bool) -> list[Wanted]:
    """The outputs asked for, in their order; all of them where none is named."""
    if not outputs:
        return [Wanted(name, are_binary) for name in OUTPUT_DATATYPES]
    names = [output.name for output in outputs]
    for index, output in enumerate(outputs):
        if output.name not in OUTPUT_DATATYPES:
            raise BadParameter(f"outputs.{index}", f"is none of {', '.join(OUTPUT_DATATYPES)}")
        if output.name in names[:index]:
            raise BadParameter(f"outputs.{index}", f"{output.name} is asked for twice")
        check_classification(output, manifest)
    return [
        Wanted(
            output.name,
            are_binary if output.parameters.binary_data is None else output.parameters.binary_data,
            output.parameters.classification,
        )
        for output in outputs
    ]


def check_classification(output: RequestedOutput, manifest: Manifest) -> None:
    num_classes = output.parameters.classification
    if num_classes is None:
        return
    if output.name != "probabilities":
        raise BadParameter(f"outputs.{output.name}", "only probabilities can be classified")
    if num_classes > len(manifest.labels):
        raise BadParameter(
            "outputs.probabilities.classification", f"there are {len(manifest.labels)} labels"
        )
