"""The bundle's `cost.json`: what its graphs cost on the host that exported it."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.bundle.records import Record

COST = "cost.json"

Seconds = Annotated[float, Field(ge=0)]


class GraphCost(Record):
    """Measured core seconds of one graph for each of the profile's batch sizes."""

    exit: PositiveInt
    median_s: tuple[Seconds, ...]
    p95_s: tuple[Seconds, ...]


class GraphCosts(Record):
    """Cost of every segment and exit head for rows of one size."""

    batch_sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    segments: tuple[GraphCost, ...]
    exit_heads: tuple[GraphCost, ...]

    @model_validator(mode="after")
    def _one_entry_per_batch_size(self) -> Self:
        if list(self.batch_sizes) != sorted(set(self.batch_sizes)):
            raise ValueError("batch_sizes must rise")
        for cost in (*self.segments, *self.exit_heads):
            if {len(cost.median_s), len(cost.p95_s)} != {len(self.batch_sizes)}:
                raise ValueError(f"exit {cost.exit} must have one cost per batch size")
        return self


class LengthCosts(GraphCosts):
    """The same for texts of one length bucket."""

    length: PositiveInt


class CostProfile(GraphCosts):
    """Cost of every segment and exit head on one host.

    Of a text model it is the cost of the largest length bucket; `shorter` has the other buckets.
    """

    schema_version: Literal[1]
    hardware: str
    threads: PositiveInt
    runs: PositiveInt
    watts: float = Field(gt=0)
    energy_method: Literal["estimate", "rapl", "nvml"]
    shorter: tuple[LengthCosts, ...] = ()

    def of_length(self, length: int) -> Self:
        """This profile with the costs of a length bucket."""
        for costs in self.shorter:
            if costs.length == length:
                known = {"batch_sizes": costs.batch_sizes, "shorter": ()}
                graphs = {"segments": costs.segments, "exit_heads": costs.exit_heads}
                return self.model_copy(update=known | graphs)
        return self.model_copy(update={"shorter": ()})
