"""The tables beside the paper's, from made results whose numbers are known."""

from pathlib import Path

import numpy as np
import pytest

from training.paper.comparison import (
    anytime_mode_top5,
    budget_mode_top5,
    exit_top1,
    markdown,
    mean_and_interval,
    method_table,
    plot,
    selection_top1,
    table,
)
from training.paper.published import ANYTIME_MODE, BUDGET_MODE, NUM_EXITS, counterpart
from training.paper.reproduce import ExitAccuracy, RunResult


def result(method: str, seed: int, top5: list[float], validated: list[float]) -> RunResult:
    """Exits of 10, 20, ... MACs; top-1 is half of top-5, the ensemble a tenth better."""
    return RunResult(
        method=method,
        seed=seed,
        git_commit="0123456789abcdef",
        net="msdnet-5",
        images_per_class=150,
        epochs=60,
        best_epoch=55,
        distillation_temperature=2.5,
        parameters=1000,
        exits=[
            ExitAccuracy(
                macs=10_000_000 * (i + 1),
                macs_all_heads=12_000_000 * (i + 1),
                selection_top1=v,
                top1=a / 2,
                top5=a,
                ensemble_top1=a / 2 + 0.1,
                ensemble_top5=a + 0.1,
            )
            for i, (a, v) in enumerate(zip(top5, validated, strict=True))
        ],
    )


RESULTS = [
    result("exit-wise", 0, [0.5, 0.6, 0.7], [0.3, 0.4, 0.5]),
    result("exit-wise", 1, [0.6, 0.7, 0.8], [0.3, 0.4, 0.5]),
    result("distillation", 0, [0.55, 0.7, 0.6], [0.3, 0.5, 0.4]),
    result("distillation", 1, [0.63, 0.8, 0.7], [0.3, 0.5, 0.4]),
]


def test_budget_mode_answers_with_the_exit_that_validates_best_among_those_that_fit() -> None:
    assert budget_mode_top5(RESULTS[0]) == pytest.approx([50, 60, 70])
    assert budget_mode_top5(RESULTS[2]) == pytest.approx([55, 70, 70])


def test_the_other_measures_are_of_each_exit() -> None:
    assert anytime_mode_top5(RESULTS[2]) == pytest.approx([65, 80, 70])
    assert exit_top1(RESULTS[2]) == pytest.approx([27.5, 35, 30])


def test_intervals_are_of_the_mean() -> None:
    mean, interval = mean_and_interval(np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]]))
    assert mean.tolist() == [3, 5]
    assert interval.tolist() == pytest.approx([1.96 * 7**0.5 / 3**0.5, 0])
    mean, interval = mean_and_interval(np.array([[1.0, 2.0]]))
    assert (mean.tolist(), interval.tolist()) == ([1, 2], [0, 0])


def test_methods_are_compared_by_their_mean_over_exits() -> None:
    changed = [result("Muon", seed, [0.5] * 3, [0.3 + 0.03 * seed, 0.4, 0.5]) for seed in (0, 1)]
    head, _, first, second = method_table([*RESULTS[:2], *changed], selection_top1)
    assert head == "| method | runs | exit 1 | exit 2 | exit 3 | mean | over exit-wise |"
    assert first == (
        "| exit-wise | 2 | 30.00 ± 0.00 | 40.00 ± 0.00 | 50.00 ± 0.00 | 40.00 ± 0.00 "
        "| +0.00 ± 0.00 |"
    )
    # 30 and 33 at exit 1: means of 40 and 41, deviations of 3 and 1 over sqrt(2)
    assert second == (
        "| Muon | 2 | 31.50 ± 2.94 | 40.00 ± 0.00 | 50.00 ± 0.00 | 40.50 ± 0.98 | +0.50 ± 0.98 |"
    )


def test_a_row_has_every_method_the_papers_number_and_the_paired_gain() -> None:
    head, _, first, _, last = table(RESULTS, budget_mode_top5, BUDGET_MODE, 150)
    assert head == (
        "| exit | M MACs | exit-wise | paper | distillation | paper | distillation over exit-wise |"
    )
    # gains of 5 and 3 points: a deviation of sqrt(2), so 1.96 errors of the mean are 1.96
    assert first == "| 1 | 10.00 | 55.00 ± 9.80 | 72.4 | 59.00 ± 7.84 | 78.7 | +4.00 ± 1.96 |"
    assert last == "| 3 | 30.00 | 75.00 ± 9.80 | 80.3 | 75.00 ± 9.80 | 81.1 | +0.00 ± 0.00 |"


def test_without_published_numbers_there_is_no_column_for_them() -> None:
    head, *_ = table(RESULTS, exit_top1, {}, 150)
    assert head == "| exit | M MACs | exit-wise | distillation | distillation over exit-wise |"
    head, *_ = table(RESULTS, budget_mode_top5, BUDGET_MODE, 80)
    assert "paper" not in head


def test_a_short_recipe_says_so() -> None:
    text = markdown("cifar100-150", "short", "2 cores", RESULTS)
    assert "**A short recipe**: not the paper's network (msdnet-11) nor its 300 epochs" in text
    assert "runs: exit-wise 2, distillation 2." in text
    assert "Trained at commit 0123456789ab." in text
    assert "**A" not in markdown("cifar100-150", "paper", "2 cores", RESULTS)


def test_what_the_papers_plots_say_stands_beside_the_tables() -> None:
    assert "The paper: teaching by all later exits gains nothing" in markdown(
        "teachers", "short", "2 cores", RESULTS
    )
    text = markdown("cifar100-150", "short", "2 cores", RESULTS)
    assert "The paper: " not in text
    title = "## Top-1 % on the held-out training images that choose the epoch"
    assert text.split(title)[1].split() == " ".join(method_table(RESULTS, selection_top1)).split()


def test_single_changes_have_a_row_each_and_nothing_of_the_paper() -> None:
    changes = [r.model_copy(update={"method": f"change {i % 2}"}) for i, r in enumerate(RESULTS)]
    text = markdown("recipe", "short", "2 cores", changes)
    assert "The paper has no such experiment." in text
    assert "**A short recipe**" not in text
    _, tested, selected = text.split("## Top-1 %")
    assert tested.split() == " ".join(method_table(changes, exit_top1)).split()
    assert selected.split("epoch\n")[1].split() == (
        " ".join(method_table(changes, selection_top1)).split()
    )


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    plot("cifar100-150", "short", RESULTS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_published_numbers_are_whole() -> None:
    for published in (BUDGET_MODE, ANYTIME_MODE):
        assert set(published) == {150, 250, 350, 500}
        for methods in published.values():
            assert {len(values) for values in methods.values()} == {NUM_EXITS}
            assert methods["distillation"][0] > methods["exit-wise"][0]
    assert BUDGET_MODE[150]["exit-wise"][0] == ANYTIME_MODE[150]["exit-wise"][0] == 72.4
    assert BUDGET_MODE[500]["distillation"][-1] == 93.1


@pytest.mark.parametrize(
    ("num_exits", "expected"),
    [(11, list(range(1, 12))), (5, [1, 3, 6, 9, 11]), (3, [1, 6, 11]), (1, [1])],
)
def test_the_papers_exit_at_the_same_place(num_exits: int, expected: list[int]) -> None:
    assert [counterpart(k, num_exits) for k in range(1, num_exits + 1)] == expected


def test_a_single_run_has_no_interval() -> None:
    _, _, first, *_ = table([RESULTS[0], RESULTS[2]], exit_top1, {}, 150)
    assert first == "| 1 | 10.00 | 25.00 | 27.50 | +2.50 |"
