"""A served model as the engine sees it: graphs, what they cost here, which are out of use."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.bundle.bundle import Bundle
from models.bundle.calibration import OperatingPoint
from models.bundle.cost_profile import CostProfile
from models.bundle.costs import Costs
from models.bundle.defaults import SHORT_STEP_S
from models.bundle.manifest import Key, Manifest
from models.bundle.runner import SegmentRunner
from models.bundle.text import TextReader
from server.engine.breaker import Breaker

DEFAULT_OPERATING_POINT = "balanced"
INLINE_S = 0.016
"""A step whose one row takes less than SHORT_STEP_S runs on the event loop, in batches up to
INLINE_S: waking a thread and sharing the interpreter with it costs a lone request more than a
millisecond a step. A longer step runs on a thread, so that probes and newcomers do not wait."""
TURN_S = 0.004
"""A turn of the event loop that has run batches for so long ends: newcomers wait to be read."""
BACKGROUND_S = 0.001
"""How long a batch of background jobs may take, unless it is a single row: a job that comes
meanwhile waits for its end."""


@dataclass(slots=True, eq=False)
class Step:
    """A step that jobs wait for: segment `exit` and its head, or only the exit head.

    A model has one object for each (it holds on to no model). Jobs of one step can share a batch:
    all are of one length bucket, 0 where rows have one size. `inline_rows` is how many rows may run
    on the event loop, 0 where none may; `background_rows` how many background rows may run
    together.
    """

    name: str
    exit: int
    is_head: bool
    length: int
    costs: Costs
    inline_rows: int
    background_rows: int

    def __str__(self) -> str:
        return f"{'exit head' if self.is_head else 'segment'} {self.exit} of {self.name}"

    def seconds(self, rows: int) -> float:
        return self.costs.step_s(self.exit, rows, is_head=self.is_head)

    def all_seconds(self, rows: int) -> list[float]:
        """For one row, for two, and so on."""
        return self.costs.all_step_s(self.exit, rows, is_head=self.is_head)

    def row_s(self) -> float:
        """Seconds per row at the batch size with the most rows per second."""
        return self.costs.best_step_s(self.exit, is_head=self.is_head)


@dataclass(frozen=True, slots=True, eq=False, repr=False, weakref_slot=True)
class ServedModel:
    """A loaded bundle, ready to run, with this host's cost profile.

    Each exit has one breaker for its segment (False) and one for its head (True), once it has
    failed. Where rows have length buckets, `costs` are those of the largest one, `shorter` has
    those of the others, and `reader` reads texts.
    """

    bundle: Bundle
    runner: SegmentRunner
    profile: CostProfile
    costs: Costs
    shorter: Mapping[int, Costs] = field(default_factory=dict)
    reader: TextReader | None = None
    breakers: dict[tuple[int, bool], Breaker] = field(default_factory=lambda: defaultdict(Breaker))
    manifest: Manifest = field(init=False)
    _steps: dict[tuple[int, bool, int], Step] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", self.bundle.manifest)

    def step(self, exit: int, *, is_head: bool = False, length: int = 0) -> Step:
        """The step of rows of a length bucket, 0 where rows have one size."""
        key = exit, is_head, length
        if (step := self._steps.get(key)) is None:
            costs = self.shorter.get(length, self.costs)
            is_short = costs.most_rows_within(exit, SHORT_STEP_S) > 0
            inline_rows = costs.most_rows_within(exit, INLINE_S) if is_short else 0
            background_rows = max(1, self.costs.most_rows_within(exit, BACKGROUND_S))
            name = self.manifest.name
            step = Step(name, exit, is_head, length, costs, inline_rows, background_rows)
            self._steps[key] = step
        return step

    def is_out(self, exit: int, now: float, *, is_head: bool = False) -> bool:
        """Whether a segment, or an exit head, is out of use."""
        breaker = self.breakers.get((exit, is_head))
        return breaker is not None and breaker.is_open(now)

    @property
    def key(self) -> Key:
        return self.manifest.name, self.manifest.version

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
        if not self.is_out(1, now):
            return None
        return f"segment 1 of {self.manifest.name} is out of use"
