from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.small_bundles import write_tensor_bundle
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.cost_profile import CostProfile
from models.bundle.energy import Rapl
from models.bundle.runner import Arrays, SegmentRunner
from models.bundle.tensor_input import RowTensor, TensorInput
from server.settings import load_settings
from server.zoo import measuring
from server.zoo.measuring import keep, key, measured

AZURE = "AzureExecutionProvider"  # in every onnxruntime


@pytest.fixture
def runner(digits_bundle: Bundle) -> SegmentRunner:
    manifest = digits_bundle.manifest
    return SegmentRunner(manifest.segments, manifest.exit_heads, digits_bundle.graphs)


def test_a_measurement_is_kept_and_read_again(
    digits_bundle: Bundle, runner: SegmentRunner, tmp_path: Path
) -> None:
    settings = load_settings(cache=tmp_path / "a" / "b", profile_s=0.1)
    profile = measured(digits_bundle, runner, settings, None)
    (path,) = settings.models.cache.iterdir()
    assert path.name == f"{key(digits_bundle, settings, None)}.json"
    assert path.name.startswith("digits-1-")
    ran: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_head", lambda exit, _: ran.append(exit))
        assert measured(digits_bundle, runner, settings, None) == profile
    assert ran == [1, 2, 3], "once through everything all the same: the first request is not slow"
    path.write_text("damaged")
    again = measured(digits_bundle, runner, settings, None)
    assert again != profile
    assert measured(digits_bundle, runner, settings, None) == again


def test_whatever_changes_the_costs_changes_the_key(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(profile_s=1.0)
    keys = {
        key(digits_bundle, settings, None),
        key(digits_bundle, settings, Rapl()),
        key(digits_bundle, load_settings(profile_s=2.0), None),
        key(digits_bundle, load_settings(profile_s=1.0, watts_per_core=5.0), None),
        key(digits_bundle, load_settings(profile_s=1.0, execution_provider=AZURE), None),
    }
    monkeypatch.setattr(measuring, "hardware", lambda: "another machine")
    keys.add(key(digits_bundle, settings, None))
    assert len(keys) == 6


def test_integers_are_within_their_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(write_tensor_bundle(tmp_path / "zoo"))
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    takes = TensorInput(
        tensors=(
            RowTensor(name="numbers", dtype="float32", shape=(3,)),
            RowTensor(name="colour", dtype="int64", shape=(1,), span=(2, 2)),
        )
    )
    narrow = replace(bundle, manifest=manifest.model_copy(update={"input": takes}))
    seen: list[int] = []
    run_segment = runner.run_segment

    def recorded(exit: int, features: Arrays) -> Arrays:
        if exit == 1:
            seen.extend(features[1].ravel().tolist())
        return run_segment(exit, features)

    monkeypatch.setattr(runner, "run_segment", recorded)
    settings = load_settings(cache=tmp_path, profile_s=0.1)
    for _ in ("measured", "kept"):
        seen.clear()
        measured(narrow, runner, settings, None)
        assert set(seen) == {2}


def test_a_cache_that_cannot_be_written_is_done_without(
    digits_bundle: Bundle, runner: SegmentRunner
) -> None:
    settings = load_settings(cache=Path("/dev/null"), profile_s=0.1)
    assert measured(digits_bundle, runner, settings, None).runs >= 3


def test_what_cannot_be_kept_leaves_nothing_behind(digits_bundle: Bundle, tmp_path: Path) -> None:
    taken = tmp_path / "costs"
    taken.mkdir()
    with pytest.raises(OSError, match="costs"):
        keep(digits_bundle.cost, taken)
    assert list(tmp_path.iterdir()) == [taken]
    taken.rmdir()
    keep(digits_bundle.cost, taken)
    assert list(tmp_path.iterdir()) == [taken]
    assert CostProfile.model_validate_json(taken.read_text()) == digits_bundle.cost
