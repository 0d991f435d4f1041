"""Admission: before a request is decoded it gets slots for its rows and a deadline, or a refusal.

Load takes depth first: a newcomer is refused only where even first answers for all would come too
late for it. Pure: the time is given.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import inf

from server.engine.job import Demand
from server.engine.model import Step
from server.engine.pace import DELIVERY_S
from server.engine.scheduler import Scheduler
from server.errors import Infeasible, Overloaded, Unavailable

DEFAULT_DEADLINE_S = 1.0
"""When a job without a latency budget settles for the answer it has, if it still waits."""
PATIENCE = 20.0
"""The same in multiples of the whole cost of a request's rows, for slow networks."""
NUM_BEHIND = 50
"""Of how many jobs that a newcomer would go before it is asked whether they can wait."""


@dataclass(slots=True, eq=False)
class Slots:
    """Room for a request's rows.

    `step` is what they are expected to wait for, `deadline` is when outcomes must exist, and `due`
    orders the jobs.
    """

    demand: Demand
    num_rows: int
    step: Step
    deadline: float = inf
    due: float = inf


@dataclass(slots=True)
class Admission:
    """At most `max_in_flight` rows are decoding, waiting or running; as many in the background."""

    max_in_flight: int
    scheduler: Scheduler
    in_flight: int = 0
    num_background: int = 0
    _decoding: Counter[Step] = field(default_factory=Counter)

    def admit(self, demand: Demand, num_rows: int, now: float, *, strict: bool = False) -> Slots:
        """Takes slots for a request; raises Overloaded, Unavailable or, where strict, Infeasible.

        A budget that not even an idle server could meet is ignored: the request is answered late,
        without priority. A budget that waiting for the loop used up is refused. A server with
        nothing else to do refuses no request.
        """
        self._check_room(demand, num_rows)
        if reason := demand.model.reason_against(now):
            raise Unavailable(reason)
        if strict:
            self._check_feasible(demand, num_rows, now)
        slots = self._slots(demand, num_rows, now)
        if not demand.is_background:
            if self.in_flight > 0 or demand.lag_s > DELIVERY_S:
                self._check_time(slots, now)
            self._decoding[slots.step] += num_rows
        self._count(demand, num_rows)
        return slots

    def decoded(self, slots: Slots) -> None:
        """The request's jobs wait for segments from now on, or it has failed before."""
        if not slots.demand.is_background:
            self._decoding[slots.step] -= slots.num_rows
            if not self._decoding[slots.step]:
                del self._decoding[slots.step]

    def free(self, demand: Demand, num_rows: int) -> None:
        """Rows that have an outcome, or that nothing waits for, give their slots back."""
        self._count(demand, -num_rows)

    def _count(self, demand: Demand, num_rows: int) -> None:
        if demand.is_background:
            self.num_background += num_rows
        else:
            self.in_flight += num_rows

    def _check_room(self, demand: Demand, num_rows: int) -> None:
        taken = self.num_background if demand.is_background else self.in_flight
        if taken + num_rows > self.max_in_flight:
            raise Overloaded(f"{taken} of {self.max_in_flight} slots are taken")

    def _slots(self, demand: Demand, num_rows: int, now: float) -> Slots:
        step, pace = first_step(demand), self.scheduler.pace
        costs = step.costs
        if demand.is_background:  # first come, first served, however long it takes
            return Slots(demand, num_rows, step)
        kept_s = pace.delivery_s + pace.unseen_s
        own_s = now - demand.arrival - demand.lag_s  # the client took it to send the request
        due_s = own_s + max(DEFAULT_DEADLINE_S, PATIENCE * num_rows * costs.full_s)
        needed_s = own_s + DELIVERY_S + costs.idle_s(num_rows, self.scheduler.num_lanes)
        budget_s = demand.budget.latency_s
        if budget_s is None or budget_s >= needed_s:
            due_s = min(budget_s or inf, due_s)
            pace.asked(due_s)
        due = demand.arrival + due_s - kept_s
        return Slots(demand, num_rows, step, demand.deadline - kept_s, due)

    def _check_feasible(self, demand: Demand, num_rows: int, now: float) -> None:
        """Raises Infeasible where exit 1 alone is expected to cost more than what is left."""
        cost = first_step(demand).costs.next_answer(0, num_rows)
        needed_s = cost.latency_s + self.scheduler.pace.delivery_s
        left_s = demand.deadline - now
        if needed_s > left_s:
            raise Infeasible(
                f"exit 1 needs {1000 * needed_s:.3f} ms, {1000 * max(left_s, 0):.3f} ms are left",
                "latency_budget_ms",
            )
        if demand.budget.energy_j is not None and cost.energy_j > demand.budget.energy_j:
            raise Infeasible(f"exit 1 needs {1000 * cost.energy_j:.3f} mJ", "energy_budget_mj")

    def _check_time(self, slots: Slots, now: float) -> None:
        """Raises Overloaded where the newcomer, or others for its sake, would be late.

        Work is expected to be done in the batches that save most, and to last as long as they do.
        """
        scheduler, step = self.scheduler, slots.step
        decoding_s = sum(rows * self._first_s(other) for other, rows in self._decoding.items())
        start = scheduler.free_at(now) + scheduler.first_s(slots.due) + decoding_s
        own_s = slots.num_rows * self._first_s(step)
        late_s = start + max(step.costs.batch_s(1, slots.num_rows), own_s) - slots.due
        if late_s > 0:
            scheduler.debt.lack(own_s, now)
            raise Overloaded("the first answer would come too late", own_s, late_s)
        end = start + own_s
        for due, seconds in scheduler.first_after(slots.due, NUM_BEHIND):
            end += seconds
            if end - own_s <= due < end:
                scheduler.debt.lack(own_s, now)
                raise Overloaded("the first answer of another would come too late")

    def _first_s(self, step: Step) -> float:
        """How long a row takes to its first answer, in the batches that save most."""
        return self.scheduler.work_s(step, step.row_s())


def first_step(demand: Demand) -> Step:
    """What the rows of a request are expected to wait for."""
    return demand.model.step(1, length=demand.length)
