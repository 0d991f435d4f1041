"""What a person asks for: a network, images, and where the bundle goes."""

from dataclasses import dataclass, field
from pathlib import Path

from training.attaching.heads import Recipe
from training.attaching.read import Options

MAX_DISAGREEMENT = 0.05
"""What the operating point `certified` may let differ from the last exit's answers. On 580 rows,
half of what calibrates Caltech-101, 2 points can hardly be told from none."""


@dataclass(frozen=True)
class Order:
    """`num_exits` and `tensors`, the cuts by name, are chosen where they are not given.

    `uses_labels` says whether heads and calibration may see the data's labels.
    """

    model: Path
    data: str
    name: str
    version: int
    zoo: Path
    options: Options = field(default_factory=Options)
    num_exits: int | None = None
    tensors: tuple[str, ...] = ()
    labels: Path | None = None
    uses_labels: bool = True
    max_disagreement: float = MAX_DISAGREEMENT
    int8: bool = False
    cache: Path | None = None
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def is_forced(self) -> bool:
        """Whether exits are wanted even where they do not pay."""
        return self.num_exits is not None or bool(self.tensors)
