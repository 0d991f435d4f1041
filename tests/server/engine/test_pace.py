import pytest

from server.engine.pace import (
    DECAY,
    DECODE_PIXEL_S,
    DECODE_S,
    DELIVERY_FALL,
    DELIVERY_S,
    HOLD_SHARE,
    LOOSEST_S,
    RELAX,
    Decoding,
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


def test_what_decoding_takes_is_learned_per_pixel_and_kind() -> None:
    decoding = Decoding()
    default_s = decoding.expected_s("PNG", 10**6)
    assert default_s == pytest.approx(DECODE_S + 10**6 * DECODE_PIXEL_S["PNG"])
    decoding.took("PNG", 10**6, DECODE_S + 1.5 * 10**6 * DECODE_PIXEL_S["PNG"])
    slower_s = decoding.expected_s("PNG", 10**6)
    assert slower_s == pytest.approx(DECODE_S + 1.25 * 10**6 * DECODE_PIXEL_S["PNG"])
    decoding.took("PNG", 10**6, default_s / 2)
    assert default_s < decoding.expected_s("PNG", 10**6) < slower_s
    assert decoding.expected_s("JPEG/8", 10**6) == Decoding().expected_s("JPEG/8", 10**6)


def test_small_images_teach_nothing_of_large_ones() -> None:
    """Most of their time is not spent on pixels."""
    decoding = Decoding()
    decoding.took("PNG", 1024, 0.001)
    assert decoding.expected_s("PNG", 10**7) == Decoding().expected_s("PNG", 10**7)
