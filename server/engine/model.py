"""A served model as the engine sees it: graphs, what they cost here, which are out of use."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.bundle.bundle import Bundle
from models.bundle.calibration import OperatingPoint
from models.bundle.cost_profile import CostProfile
from models.bundle.costs import Costs
from models.bundle.manifest import Key, Manifest
from models.bundle.runner import SegmentRunner
from models.bundle.text import TextReader
from server.engine.breaker import Breaker

DEFAULT_OPERATING_POINT = "balanced"
SHORT_S, INLINE_S = 0.004, 0.016
"""A step whose one row takes less than SHORT_S runs on the event loop, in batches up to INLINE_S:
waking a thread and sharing the interpreter with it costs as much as most segments of a small
network. A longer step runs on a thread, so that probes and newcomers do not wait for it."""
BACKGROUND_S = 0.001
"""How long a batch of background jobs may take, unless it is a single row: a job that comes
meanwhile waits for its end."""


@dataclass(frozen=True, slots=True, eq=False, repr=False, weakref_slot=True)
class ServedModel:
    """A loaded bundle, ready to run, with this host's cost profile.

    Each exit has one breaker for its segment (False) and one for its head (True). Where rows have
    length buckets, `costs` are those of the largest one, `shorter` has those of the others, and
    `reader` reads texts.
    """

    bundle: Bundle
    runner: SegmentRunner
    profile: CostProfile
    costs: Costs
    shorter: Mapping[int, Costs] = field(default_factory=dict)
    reader: TextReader | None = None
    breakers: dict[tuple[int, bool], Breaker] = field(default_factory=lambda: defaultdict(Breaker))
    inline_rows: tuple[int, ...] = field(init=False)
    """How many rows may run through each segment on the event loop, 0 where none may."""
    background_rows: tuple[int, ...] = field(init=False)
    """How many background rows may run through each segment together, whatever their length."""
    shorter_inline_rows: Mapping[int, tuple[int, ...]] = field(init=False)
    """The same for each of the shorter length buckets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "inline_rows", inline_rows(self.costs, self.manifest.num_exits))
        rows = {n: inline_rows(costs, self.manifest.num_exits) for n, costs in self.shorter.items()}
        object.__setattr__(self, "shorter_inline_rows", rows)
        exits = range(1, self.manifest.num_exits + 1)
        few = tuple(max(1, self.costs.most_rows_within(exit, BACKGROUND_S)) for exit in exits)
        object.__setattr__(self, "background_rows", few)

    def costs_of(self, length: int) -> Costs:
        """Those of a length bucket; of length 0 where rows have one size."""
        return self.shorter.get(length, self.costs)

    def inline_rows_of(self, length: int) -> tuple[int, ...]:
        """The same of `inline_rows`."""
        return self.shorter_inline_rows.get(length, self.inline_rows)

    @property
    def key(self) -> Key:
        return self.manifest.name, self.manifest.version

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def energy_source(self) -> str:
        """The source of every number of joules."""
        return self.profile.energy_method

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        return self.bundle.calibration.operating_points

    @property
    def default_point(self) -> OperatingPoint:
        """The operating point of requests that name neither one nor a threshold."""
        return self.operating_points[DEFAULT_OPERATING_POINT]

    def reason_against(self, now: float) -> str | None:
        """Why this model cannot answer now, or None while it can."""
        is_out = self.breakers[1, False].is_open(now)
        return f"segment 1 of {self.manifest.name} is out of use" if is_out else None


def inline_rows(costs: Costs, num_exits: int) -> tuple[int, ...]:
    """How many rows may run through each segment on the event loop."""
    return tuple(
        costs.most_rows_within(exit, INLINE_S) if costs.most_rows_within(exit, SHORT_S) else 0
        for exit in range(1, num_exits + 1)
    )
