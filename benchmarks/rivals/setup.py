"""What the processes of a rival are told by the process that starts them."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel

VARIABLE = "RIVAL"
Colour = tuple[float, float, float]


class Setup(BaseModel, frozen=True):
    """A network, and how it is served; `original` is an ONNX file with its normalisation."""

    network: Literal["exits", "uncut", "original"]
    bundle: Path
    original: Path = Path()
    mean: Colour = (0, 0, 0)
    std: Colour = (1, 1, 1)
    budget_ms: float | None = None
    max_batch_size: int = 1

    def environment(self) -> dict[str, str]:
        return {VARIABLE: self.model_dump_json()}

    @classmethod
    def told(cls) -> Self:
        """That of this process."""
        return cls.model_validate_json(os.environ[VARIABLE])
