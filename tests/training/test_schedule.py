import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.config import TrainConfig
from training.schedule import learning_rate


def config(**options: object) -> TrainConfig:
    return TrainConfig.model_validate({"data": "digits", "net": "msdnet-tiny"} | options)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.1), (149.999, 0.1), (150, 0.01), (224.999, 0.01), (225, 0.001), (299.999, 0.001)],
)
def test_the_papers_steps(epoch: float, expected: float) -> None:
    assert learning_rate(config(), epoch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "decays"), [(1, (1, 1)), (6, (3, 5)), (60, (30, 45)), (300, (150, 225))]
)
def test_the_steps_come_after_half_and_three_quarters_of_any_number_of_epochs(
    epochs: int, decays: tuple[int, ...]
) -> None:
    assert config(epochs=epochs).decay_epochs == decays
    assert config(epochs=epochs, decay_epochs=[2]).decay_epochs == (2,)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.0), (0.5, 0.05), (1, 0.1), (2, 0.2), (6, 0.1), (9, 0.025), (10, 0.0)],
)
def test_linear_rises_to_the_peak_and_falls_to_zero(epoch: float, expected: float) -> None:
    linear = config(schedule="linear", epochs=10, warmup_epochs=2, learning_rate=0.2)
    assert learning_rate(linear, epoch) == pytest.approx(expected)


def test_without_warmup_linear_starts_at_the_peak() -> None:
    assert learning_rate(config(schedule="linear", epochs=4), 0) == pytest.approx(0.1)


@given(
    st.sampled_from(["step", "linear"]),
    st.integers(1, 300),
    st.floats(0, 20),
    st.floats(1e-4, 10),
    st.floats(0, 1, exclude_max=True),
)
def test_never_above_the_peak_and_never_negative(
    schedule: str, epochs: int, warmup: float, peak: float, share: float
) -> None:
    warmup = warmup if schedule == "linear" else 0
    made = config(schedule=schedule, epochs=epochs, warmup_epochs=warmup, learning_rate=peak)
    assert 0 <= learning_rate(made, share * epochs) <= peak * (1 + 1e-12)


@given(st.integers(2, 300), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_linear_is_monotone_on_either_side_of_the_peak(
    epochs: int, warmup: float, one: float, other: float
) -> None:
    made = config(schedule="linear", epochs=epochs, warmup_epochs=warmup)
    early, late = sorted((one * epochs, other * epochs))
    assume(late < warmup or early >= warmup)
    first, second = learning_rate(made, early), learning_rate(made, late)
    assert first <= second if late < warmup else first >= second
