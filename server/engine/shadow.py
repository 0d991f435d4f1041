"""Shadow samples: rows that stopped early, run on to the last exit while lanes would idle.

How often the last exit agrees with the answer that was given says, without labels, whether the
thresholds still do what they did on the calibration split. What a segment took corrects its
expected cost, also where that has become so high that no job would run it.
"""

import random
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from models.bundle.policy import Policy
from server.engine.compute import gather
from server.engine.job import Answer, Budget, Demand, Given, Job, Outcome, Row
from server.engine.model import ServedModel


class Comparing(Protocol):
    def shadow_compared(self, model: ServedModel, exit: int, *, agrees: bool) -> None: ...


@dataclass(slots=True)
class Shadows:
    """A random `share` of the confident answers."""

    share: float
    counts: Comparing

    def of(self, job: Job, now: float) -> Job | None:
        """A background job that runs a copy of a job on to its last exit, or None."""
        num_exits = job.model.manifest.num_exits
        if random.random() >= self.share or job.exit == num_exits:
            return None
        to_the_end = Policy((None,) * num_exits, min_exit=num_exits, max_exit=num_exits)
        demand = Demand(job.model, to_the_end, Budget(), now, is_background=True)
        shadow = Job(
            demand, Given([], 0, job.length), partial(self._compare, job.model, job.answers[-1])
        )
        # a copy of its row: the whole batch is not to be kept
        features = [array.copy() for array in gather([job.features])]
        shadow.exit, shadow.features, shadow.is_counted = job.exit, Row(features, 0), False
        return shadow

    def _compare(self, model: ServedModel, given: Answer, result: Outcome | Exception) -> None:
        """Compares the last exit only: a shadow that failed before it is not counted."""
        if isinstance(result, Outcome) and result.answer.exit == model.manifest.num_exits:
            agrees = bool(result.answer.probabilities.argmax() == given.probabilities.argmax())
            self.counts.shadow_compared(model, given.exit, agrees=agrees)
