"""Shadow samples: images that stopped early, run on to the last exit while workers would idle.

How often the last exit agrees with the answer that was given says, without labels, whether the
thresholds still do what they did on the calibration split. What a segment took corrects its
expected cost, also where that has become so high that nobody would run it for an answer.
"""

import random
from collections import deque
from dataclasses import dataclass

import onnxruntime as ort

from models.bundle.runner import Arrays
from server.engine.compute import gather
from server.engine.job import Job
from server.telemetry.metrics import Metrics
from server.zoo.catalog import ServedModel

MAX_WAITING = 64


@dataclass(slots=True)
class Shadow:
    """A copy of a job that answered class `index` at exit `answered_at`; it has run to `exit`."""

    model: ServedModel
    answered_at: int
    index: int
    exit: int
    features: Arrays


class Shadows:
    """A random `share` of the confident answers; what finds no idle worker in time is dropped."""

    def __init__(self, share: float, metrics: Metrics) -> None:
        self._share, self._metrics = share, metrics
        self._waiting: deque[Shadow] = deque(maxlen=MAX_WAITING)

    def offer(self, job: Job) -> None:
        """Takes a job that has just answered, perhaps."""
        if random.random() >= self._share or job.exit == job.model.manifest.num_exits:
            return
        answer = job.answers[-1]
        # a copy of its row: the whole batch is not to be kept
        features = [array.copy() for array in gather([job.features])]
        index = int(answer.probabilities.argmax())
        self._waiting.append(Shadow(job.model, answer.exit, index, job.exit, features))

    def take(self) -> Shadow | None:
        """The one to go on with, the newest: older ones give way."""
        return self._waiting.pop() if self._waiting else None

    def put_back(self, shadow: Shadow) -> None:
        self._waiting.append(shadow)

    def follow(self, shadow: Shadow, options: ort.RunOptions) -> bool:
        """Runs one more segment; true once the last exit has been compared and counted."""
        runner, num_exits = shadow.model.runner, shadow.model.manifest.num_exits
        shadow.exit += 1
        start = runner.clock()
        shadow.features = runner.run_segment(shadow.exit, shadow.features, options)
        shadow.model.costs.segment_took(shadow.exit, 1, runner.clock() - start)
        if shadow.exit < num_exits:
            return False
        logits = runner.run_head(num_exits, shadow.features, options)
        agrees = int(logits.argmax()) == shadow.index
        self._metrics.shadow_compared(shadow.model, shadow.answered_at, agrees=agrees)
        return True
