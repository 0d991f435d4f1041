"""Calibration temperatures, and operating points that keep their promises on new rows."""

from collections import Counter
from typing import NamedTuple, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.calibration import Calibration, OperatingPoint
from models.bundle.confidence import Measure, calibrated_probabilities, confidence
from training.evaluation.measures import Labels
from training.exporting.calibrate import (
    ACCURACY_DROPS,
    CERTIFIED,
    DELTA,
    DISAGREEMENTS,
    MAX_ACCURACY_DROP,
    agreement_view,
    best_search,
    calibrate,
    certified,
    fit_temperature,
    halves,
    split_view,
)
from training.exporting.certificates import upper_bound
from training.exporting.operating_points import SplitView, Thresholds, never_early, tuned_candidates

Floats = NDArray[np.float32]


def synthetic(temperature: float, rows: int = 20_000, seed: int = 0) -> tuple[Floats, Labels]:
    """Logits, and labels drawn from their softmax at a known temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (rows, 5)).astype(np.float32)
    cumulative = calibrated_probabilities(logits, temperature).cumsum(axis=1)
    draws = generator.random((rows, 1)) * cumulative[:, -1:]
    return logits, (draws > cumulative).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits, labels = synthetic(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_scaled_logits_need_a_scaled_temperature() -> None:
    logits, labels = synthetic(1.0, rows=500)
    once, thrice = (fit_temperature(factor * logits, labels) for factor in (1, 3))
    assert thrice == pytest.approx(3 * once, rel=1e-3)


class LabelledLogits(NamedTuple):
    """What every exit says of some rows, and their labels."""

    logits: list[Floats]
    labels: Labels

    def view(self, calibration: Calibration, bundle: Bundle) -> SplitView:
        """These rows as the stop rule sees them after this calibration."""
        temperatures = [e.calibration_temperature for e in calibration.exits]
        graphs = bundle.manifest.segments, bundle.manifest.exit_heads
        return split_view(self.logits, temperatures, self.labels, *graphs, calibration.confidence)


def drawn_rows(rows: int, seed: int) -> LabelledLogits:
    """Three exits, each surer than the one before; even the last one is often wrong."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 2, (rows, 10))
    labels = (truth + generator.gumbel(size=truth.shape)).argmax(axis=1)
    noise = [1.5, 1.0, 0.5]
    logits = [(truth + generator.normal(0, s, truth.shape)).astype(np.float32) for s in noise]
    return LabelledLogits(logits, labels)


def calibrated(rows: LabelledLogits, bundle: Bundle) -> Calibration:
    return calibrate(rows.logits, rows.labels, bundle.manifest.segments, bundle.manifest.exit_heads)


def thresholds_of(point: OperatingPoint) -> Thresholds:
    """Back from what a bundle stores to what a split walks by."""
    thresholds = never_early(len(point.thresholds))
    for exit in point.consulted[:-1]:
        thresholds[exit - 1] = point.thresholds[exit - 1]
    return thresholds


@pytest.mark.parametrize("has_labels", [True, False])
def test_operating_points_keep_their_promises_on_new_rows(
    digits_bundle: Bundle, *, has_labels: bool
) -> None:
    """Luck on the calibration split picks no point. One draw of ten may lose too much."""
    manifest = digits_bundle.manifest
    limits = {**(ACCURACY_DROPS if has_labels else DISAGREEMENTS), CERTIFIED: MAX_ACCURACY_DROP}
    num_broken = Counter[str]()
    for seed in range(20):
        rows, new = drawn_rows(2000, seed), drawn_rows(10_000, 100 + seed)
        labels = rows.labels if has_labels else None
        made = calibrate(rows.logits, labels, manifest.segments, manifest.exit_heads)
        if not has_labels:
            new = new._replace(labels=new.logits[-1].argmax(axis=1))
        for name, limit in limits.items():
            thresholds = thresholds_of(made.operating_points[name])
            num_broken[name] += new.view(made, digits_bundle).losses(thresholds).mean() > limit
    assert max(num_broken.values()) <= DELTA * 20


def test_a_calibration_describes_every_exit(digits_bundle: Bundle) -> None:
    sharp, labels = synthetic(1.0, rows=3000)
    rough = (sharp + np.random.default_rng(1).normal(0, 3, sharp.shape)).astype(np.float32)
    rows = LabelledLogits([rough, 2 * sharp, sharp], labels)
    made = calibrated(rows, digits_bundle)
    assert made.num_rows == 3000
    assert [e.accuracy for e in made.exits] == [(z.argmax(1) == labels).mean() for z in rows.logits]
    assert made.exits[1].calibration_temperature == pytest.approx(2, rel=0.1)
    assert made.exits[2].calibration_temperature == pytest.approx(1, rel=0.1)
    assert made.exits[1].ece < made.exits[1].ece_before / 2


def test_operating_points_lose_what_they_may_where_they_were_tuned(digits_bundle: Bundle) -> None:
    rows = drawn_rows(1000, 0)
    made = calibrated(rows, digits_bundle)
    split = rows.view(made, digits_bundle)
    tune = split.take(halves(1000)[0])
    for name, drop in ACCURACY_DROPS.items():
        point = made.operating_points[name]
        losses = tune.estimated_losses(thresholds_of(point))
        spare = 2.5 * losses.std() / np.sqrt(500) + 1 / 500
        assert losses.mean() + spare <= drop or point.consulted == (3,)
        assert split.point(thresholds_of(point), point.certificate) == point
    fast, balanced, accurate = (
        tune.candidate(thresholds_of(made.operating_points[name])).mean_macs
        for name in ACCURACY_DROPS
    )
    assert fast <= balanced <= accurate


@pytest.mark.parametrize("measure", get_args(Measure))
def test_the_margin_is_the_confidence_where_it_tells_which_rows_may_stop(
    digits_bundle: Bundle, measure: Measure
) -> None:
    """Half of the rows are torn between two classes, the others have one far before all others.

    The last exit answers one half as the first does, and the other half nearly always right.
    """
    torn = np.array([0.55, 0.45, *[1e-6] * 8])
    ahead = np.array([0.5, *[0.5 / 9] * 9])
    changes = torn if measure == "margin" else ahead
    early, last, labels = [], [], []
    generator = np.random.default_rng(0)
    for probabilities in (torn, ahead):
        drawn = generator.choice(10, size=500, p=probabilities / probabilities.sum())
        early += [probabilities] * 500
        sure = 0.99 * np.eye(10)[drawn] + 0.001
        last += list(sure) if probabilities is changes else [probabilities] * 500
        labels += list(drawn)
    first, final = (np.log(np.array(p, dtype=np.float32)) for p in (early, last))
    manifest, exits = digits_bundle.manifest, [first, first, final]
    made = calibrate(exits, np.array(labels), manifest.segments, manifest.exit_heads)
    assert made.confidence == measure
    assert made.operating_points["balanced"].exit_shares[0] == pytest.approx(0.5, abs=0.1)
    assert made.rows is not None
    confidences, _ = made.rows.arrays(3)
    by_hand = confidence(
        calibrated_probabilities(first, made.exits[0].calibration_temperature), measure
    )
    assert confidences[:, 0] == pytest.approx(by_hand, abs=1e-4)


def test_with_two_classes_confidence_is_the_largest_probability(digits_bundle: Bundle) -> None:
    """The margin ranks alike, on a grid of thresholds twice as fine."""
    rows, manifest = drawn_rows(1000, 0), digits_bundle.manifest
    logits = [np.ascontiguousarray(z[:, :2]) for z in rows.logits]
    for labels in (rows.labels % 2, None):
        made = calibrate(logits, labels, manifest.segments, manifest.exit_heads)
        assert made.confidence == "max_probability"


@pytest.mark.parametrize(("num_unsure", "measure"), [(990, "max_probability"), (989, "margin")])
def test_the_margin_must_save_one_percent(num_unsure: int, measure: Measure) -> None:
    """A row that goes on costs 100, another 1: by the largest probability 50.5 for each of 2,000.

    By the margin it is 50.005 or 49.956.
    """

    def view(by: Measure) -> SplitView:
        confidences = np.ones((2000, 2))
        confidences[: num_unsure if by == "margin" else 1000] = 0
        right, macs = np.ones((2000, 2)), np.array([1, 99])
        return SplitView(confidences, right > 0, right, macs, np.array([0, 0]))

    found = best_search(view, np.arange(2000), ACCURACY_DROPS, get_args(Measure))
    assert found.measure == measure
    assert found.split.confidences[989, 0] == (measure == "margin")


def test_the_halves_share_no_row_and_miss_none() -> None:
    tuning, certifying = halves(101)
    assert (len(tuning), len(certifying)) == (51, 50)
    assert sorted([*tuning, *certifying]) == list(range(101))
    assert sorted(certifying) != certifying.tolist()


def test_labels_of_rows_that_certify_choose_nothing(digits_bundle: Bundle) -> None:
    """But for the point `certified`: of a path they had no part in, they choose how far to go."""
    rows = drawn_rows(600, 0)
    _, certifying = halves(600)
    wrong = rows.labels.copy()
    wrong[certifying] = (wrong[certifying] + 1) % 10
    one, other = (calibrated(r, digits_bundle) for r in (rows, rows._replace(labels=wrong)))
    assert [e.calibration_temperature for e in one.exits] == [
        e.calibration_temperature for e in other.exits
    ]
    certificates = []
    for name in ACCURACY_DROPS:
        before, after = one.operating_points[name], other.operating_points[name]
        assert before.thresholds == after.thresholds
        if len(before.consulted) > 1:  # never stopping early costs nothing, for certain
            certificates.append((before.certificate, after.certificate))
    assert certificates
    assert all(before != after for before, after in certificates)


def test_certificates_say_on_what_they_rest(digits_bundle: Bundle) -> None:
    points = calibrated(drawn_rows(1501, 0), digits_bundle).operating_points
    assert list(points) == [*ACCURACY_DROPS, CERTIFIED]
    certificates = {name: point.certificate for name, point in points.items() if point.certificate}
    assert list(certificates) == list(points)
    for certificate in certificates.values():
        assert (certificate.holds_with_probability, certificate.num_rows) == (0.9, 750)
    assert certificates[CERTIFIED].max_accuracy_drop == MAX_ACCURACY_DROP
    assert points[CERTIFIED].exit_shares[-1] < 1


def test_a_bound_on_rows_that_chose_holds_for_every_choice(digits_bundle: Bundle) -> None:
    """`certified` is one of a path, chosen by the rows that bound how many answers differ."""
    rows, manifest = drawn_rows(1501, 0), digits_bundle.manifest
    made = calibrated(rows, digits_bundle)
    split = rows.view(made, digits_bundle)
    temperatures = [e.calibration_temperature for e in made.exits]
    graphs = manifest.segments, manifest.exit_heads
    tuning, certifying = halves(1501)
    certify = agreement_view(rows.logits, temperatures, *graphs, made.confidence).take(certifying)
    num_tried = len(tuned_candidates(split.take(tuning)))
    assert num_tried > 1
    for name, num_choices in {CERTIFIED: num_tried, "fast": 1}.items():
        point = made.operating_points[name]
        assert point.certificate is not None
        bound = upper_bound(certify.losses(thresholds_of(point)), DELTA / num_choices)
        assert point.certificate.max_disagreement == pytest.approx(bound)


def test_with_labels_certified_may_be_limited_by_disagreement(digits_bundle: Bundle) -> None:
    rows, manifest = drawn_rows(3001, 0), digits_bundle.manifest
    graphs = manifest.segments, manifest.exit_heads
    for limit in (0.1, 0.3):
        made = calibrate(rows.logits, rows.labels, *graphs, max_disagreement=limit)
        point = made.operating_points[CERTIFIED]
        assert point.certificate is not None
        assert point.certificate.max_disagreement == limit
        assert point.exit_shares[-1] < 1
        new = drawn_rows(20_000, 1)
        stops, _ = new.view(made, digits_bundle).walk(thresholds_of(point))
        answers = np.stack([z.argmax(axis=1) for z in new.logits], axis=1)
        differ = answers[np.arange(len(stops)), stops] != answers[:, -1]
        assert limit / 2 < differ.mean() <= limit
        assert point.certificate.max_accuracy_drop < limit


@pytest.mark.parametrize("has_labels", [True, False])
def test_where_no_answer_may_differ_no_row_stops_early(
    digits_bundle: Bundle, *, has_labels: bool
) -> None:
    rows, manifest = drawn_rows(1000, 0), digits_bundle.manifest
    labels = rows.labels if has_labels else None
    graphs = manifest.segments, manifest.exit_heads
    point = calibrate(rows.logits, labels, *graphs, max_disagreement=0.0).operating_points
    assert point[CERTIFIED].exit_shares == (0, 0, 1)


@pytest.mark.parametrize(("num_rows", "max_accuracy_drop"), [(60, MAX_ACCURACY_DROP), (1000, 0.0)])
def test_where_nothing_passes_no_row_stops_early(
    num_rows: int, max_accuracy_drop: float, digits_bundle: Bundle
) -> None:
    rows, manifest = drawn_rows(num_rows, 0), digits_bundle.manifest
    made = calibrate(
        rows.logits, rows.labels, manifest.segments, manifest.exit_heads, max_accuracy_drop
    )
    point = made.operating_points[CERTIFIED]
    assert (point.consulted, point.exit_shares) == ((3,), (0, 0, 1))
    assert point.certificate is not None
    assert point.certificate.max_accuracy_drop == 0


@pytest.mark.parametrize("has_labels", [True, False])
def test_a_network_of_one_exit_answers_there(digits_bundle: Bundle, *, has_labels: bool) -> None:
    rows, manifest = drawn_rows(100, 0), digits_bundle.manifest
    labels = rows.labels if has_labels else None
    graphs = manifest.segments[:1], manifest.exit_heads[:1]
    points = calibrate(rows.logits[:1], labels, *graphs).operating_points
    assert list(points) == [*ACCURACY_DROPS, CERTIFIED]
    for point in points.values():
        assert (point.thresholds, point.consulted, point.exit_shares) == ((None,), (1,), (1,))
        assert point.certificate is not None
        assert point.certificate.max_disagreement == 0


def test_the_certified_point_keeps_its_promise_on_1000_calibration_draws(
    digits_bundle: Bundle,
) -> None:
    """Drawn from rows whose losses are known; the target is just below one of the path's."""
    made = calibrated(drawn_rows(1000, 0), digits_bundle)
    population = drawn_rows(20_000, 1).view(made, digits_bundle)
    front = tuned_candidates(drawn_rows(1000, 2).view(made, digits_bundle))[::10]
    costs = [population.losses(candidate.thresholds).mean() for candidate in front]
    target = sorted(costs)[len(costs) // 2] - 1e-6
    generator = np.random.default_rng(3)
    broken = early = 0
    for _ in range(1000):
        draw = population.take(generator.integers(0, population.num_rows, 500))
        thresholds, max_drop = certified(draw, front, target)
        broken += population.losses(thresholds).mean() > target
        early += max_drop > 0
    assert broken <= 1000 * DELTA
    assert early > 500
