import pytest

from models.bundle.cost_profile import CostProfile, GraphCost
from models.bundle.costs import Costs
from models.bundle.policy import Spend

PROFILE = CostProfile(
    schema_version=1,
    hardware="a machine",
    threads=1,
    runs=20,
    batch_sizes=(1, 4, 8),
    segments=(
        GraphCost(exit=1, median_s=(1.0, 2.0, 3.0), p95_s=(2.0, 5.0, 9.0)),
        GraphCost(exit=2, median_s=(0.1, 0.1, 0.1), p95_s=(4.0, 4.0, 6.0)),
    ),
    exit_heads=(
        GraphCost(exit=1, median_s=(0.1, 0.1, 0.1), p95_s=(0.25, 0.5, 1.0)),
        GraphCost(exit=2, median_s=(0.1, 0.1, 0.1), p95_s=(0.5, 1.0, 2.0)),
    ),
    watts=8.0,
    energy_method="estimate",
)


@pytest.mark.parametrize(
    ("rows", "expected_s"),
    [(1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0), (6, 7.0), (8, 9.0), (16, 18.0), (12, 13.5)],
)
def test_the_p95_is_interpolated_and_beyond_the_profile_grows_in_proportion(
    rows: int, expected_s: float
) -> None:
    assert Costs(PROFILE).segment_s(1, rows) == pytest.approx(expected_s)


def test_segments_and_heads_are_looked_up_by_exit() -> None:
    costs = Costs(PROFILE)
    assert (costs.segment_s(2, 1), costs.head_s(1, 4), costs.head_s(2, 8)) == (4.0, 0.5, 2.0)


def test_energy_is_busy_time_times_watts_shared_by_the_rows() -> None:
    assert Costs(PROFILE).energy_j(3.0, 4) == pytest.approx(6.0)


def test_the_next_answer_costs_a_segment_and_its_head() -> None:
    assert Costs(PROFILE).next_answer(1, 4) == Spend(5.0, 10.0)


def test_a_batch_is_as_large_as_saves_most_and_no_larger_than_asked() -> None:
    """Segment 1 and its head take 2.25 s for one row, 5.5 for four, 10 for eight."""
    costs = Costs(PROFILE)
    assert costs.batch_s(1, 1) == pytest.approx(2.25)
    assert costs.batch_s(1, 4) == pytest.approx(5.5)
    assert costs.batch_s(1, 100) == pytest.approx(10.0)
    assert costs.best_step_s(1, is_head=True) == pytest.approx(0.125)
    assert costs.best_step_s(1, is_head=False) == pytest.approx(1.125 + 0.125)


def test_what_a_batch_takes_beyond_its_graphs_is_learned_and_shared_by_its_rows() -> None:
    costs = Costs(PROFILE, overhead_s=1.0)
    assert costs.step_s(1, 4, is_head=True) == pytest.approx(1.5)
    assert costs.step_s(1, 4, is_head=False) == pytest.approx(6.5)
    assert costs.best_step_s(1, is_head=True) == pytest.approx(0.125 + 1 / 8)
    assert costs.next_answer(1, 4) == Spend(6.0, 10.0), "a core that waits uses no energy"
    costs.batch_took(6.5, core_s=5.0)
    assert costs.overhead_s == pytest.approx(1.25)
    costs.batch_took(1000.0, core_s=5.0)
    assert costs.overhead_s == pytest.approx(1.25 * 1.5), "a stall counts twice at most"
    for _ in range(1000):
        costs.batch_took(3.0, core_s=3.0 + 1e-6)  # clocks differ
    assert costs.overhead_s == pytest.approx(0.5), "never below half of what was expected at first"


def test_more_rows_are_never_expected_to_take_less() -> None:
    noisy = PROFILE.segments[0].model_copy(update={"p95_s": (6.0, 5.0, 9.0)})
    costs = Costs(PROFILE.model_copy(update={"segments": (noisy, PROFILE.segments[1])}))
    assert [costs.segment_s(1, rows) for rows in (1, 4, 8)] == [6.0, 6.0, 9.0]


def test_expectations_rise_fast_and_fall_slowly() -> None:
    costs = Costs(PROFILE)
    costs.segment_took(1, 1, 3.0)
    assert costs.segment_s(1, 1) == pytest.approx(2.5)
    assert costs.segment_s(1, 8) == pytest.approx(1.25 * 9), "one correction for all batch sizes"
    assert costs.segment_s(2, 1) == 4.0
    for _ in range(20):
        costs.segment_took(1, 1, 3.0)
    assert costs.segment_s(1, 1) == pytest.approx(3.0, abs=1e-3)
    costs.segment_took(1, 1, 2.0)
    assert costs.segment_s(1, 1) == pytest.approx(2.98, abs=1e-3)


def test_one_stall_at_most_doubles_what_is_expected() -> None:
    costs = Costs(PROFILE)
    costs.head_took(2, 1, 1000.0)
    assert costs.head_s(2, 1) == pytest.approx(0.75)
    for _ in range(10_000):
        costs.head_took(2, 1, 0.0)
    assert costs.head_s(2, 1) == pytest.approx(0.25), "never below half of what was profiled"


def test_the_largest_batch_within_a_time_is_of_segment_and_head_as_profiled() -> None:
    """One row takes 2.25 s, four 5.5, five 6.625, eight 10."""
    costs = Costs(PROFILE)
    assert [costs.most_rows_within(1, limit) for limit in (2.0, 2.25, 5.5, 6.7, 9.9, 100)] == [
        0, 1, 4, 5, 7, 8,
    ]  # fmt: skip
    costs.segment_took(1, 1, 4.0)
    assert costs.most_rows_within(1, 2.25) == 1, "whatever has been learned"


def test_an_idle_server_is_expected_as_it_was_at_first() -> None:
    costs = Costs(PROFILE)
    assert costs.idle_s(1, workers=1) == pytest.approx(2.25)
    assert costs.idle_s(16, workers=2) == pytest.approx(8 * 1.25)
    costs.segment_took(1, 1, 4.0)
    assert costs.idle_s(1, workers=1) == pytest.approx(2.25)
