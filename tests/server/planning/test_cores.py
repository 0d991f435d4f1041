"""Core time of a simulated machine."""

from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.planning.cores import Cores, Work


def ends(num: int | None, works: list[tuple[float, float, int]]) -> list[tuple[int, float]]:
    """Number and end of each work, in the order they end in, of (start, seconds, turn)."""
    cores, done, now = Cores(num), list[int](), 0.0
    found: list[tuple[int, float]] = []
    starts = sorted(enumerate(works), key=lambda each: each[1][0])
    while starts or len(found) < len(works):
        start = starts[0][1][0] if starts else float("inf")
        if start <= cores.next_end():
            number, (now, seconds, turn) = starts.pop(0)
            cores.run_until(now)
            cores.add(Work(seconds, turn, partial(done.append, number)))
        else:
            cores.run_until(now := cores.next_end())
            cores.take_done().then()
            found.append((done[-1], now))
    return found


@pytest.mark.parametrize(
    ("num", "expected"),
    [
        (1, [(1, 3.0), (0, 6.0), (2, 10.0)]),
        (2, [(1, 3.0), (0, 4.0), (2, 7.0)]),
        (None, [(1, 3.0), (0, 4.0), (2, 5.0)]),
    ],
)
def test_whose_turn_it_is_interrupts_where_there_is_no_other_core(
    num: int | None, expected: list[tuple[int, float]]
) -> None:
    works = [(0.0, 4.0, 2), (1.0, 2.0, 1), (1.0, 4.0, 3)]
    assert ends(num, works) == expected


work = st.tuples(st.floats(0, 10), st.floats(0.01, 5), st.integers(0, 3))


@given(st.lists(work, min_size=1, max_size=8), st.integers(1, 4))
def test_no_core_time_is_lost_and_none_is_invented(
    works: list[tuple[float, float, int]], num: int
) -> None:
    found = dict(ends(num, works))
    assert sorted(found) == list(range(len(works)))
    for number, (start, seconds, _) in enumerate(works):
        assert found[number] >= start + seconds - 1e-9
    times = sorted({start for start, _, _ in works} | set(found.values()))
    used = sum(
        (after - before)
        * min(num, sum(works[n][0] <= before and found[n] > before + 1e-9 for n in found))
        for before, after in pairwise(times)
    )
    assert used == pytest.approx(sum(seconds for _, seconds, _ in works), abs=1e-6)
