import pytest

from server.engine.pace import (
    DECAY,
    DELIVERY_FALL,
    DELIVERY_S,
    HOLD_SHARE,
    LOOSEST_S,
    RELAX,
    Pace,
)


def test_what_responses_take_is_learned_fast_and_forgotten_slowly() -> None:
    pace = Pace()
    assert pace.delivery_s == DELIVERY_S
    pace.delivered(1.5 * DELIVERY_S)
    assert pace.delivery_s == pytest.approx(1.25 * DELIVERY_S)
    pace.delivered(0.25 * DELIVERY_S)
    assert pace.delivery_s == pytest.approx((1.25 - DELIVERY_FALL) * DELIVERY_S)


def test_turns_say_how_much_requests_stretch_the_batches() -> None:
    pace = Pace()
    assert pace.stretch == 1
    pace.turned(0.006, batch_s=0.003)
    assert pace.stretch == pytest.approx(2)
    pace.turned(0.012, batch_s=0.003)
    assert pace.stretch == pytest.approx((DECAY * 6 + 12) / (DECAY * 3 + 3))
    for _ in range(200):
        pace.turned(0.002, batch_s=0.003)
    assert pace.stretch == 1


def test_a_tight_budget_shortens_batches_at_once_and_is_forgotten_slowly() -> None:
    pace = Pace()
    assert pace.hold_s == HOLD_SHARE * LOOSEST_S
    pace.asked(0.02)
    assert pace.hold_s == pytest.approx(HOLD_SHARE * 0.02)
    pace.asked(10.0)
    assert pace.hold_s == pytest.approx(HOLD_SHARE * (0.02 + RELAX * (LOOSEST_S - 0.02)))
