"""A bundle loads whole and unaltered, or is refused in one sentence that names the file."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.bundle.bundle import Bundle, BundleError, load_bundle, sha256
from models.bundle.calibration import CALIBRATION
from models.bundle.cost_profile import COST
from models.bundle.manifest import MANIFEST

Json = dict[str, Any]
Edit = Callable[[Json], object]
GRAPHS = [f"{kind}_{exit}.onnx" for kind in ("segment", "exit") for exit in (1, 2, 3)]


@pytest.fixture
def path(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(digits_bundle.path, tmp_path / "digits" / "1"))


def edit(file: Path, change: Edit) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_signed(path: Path, name: str, change: Edit) -> None:
    """Changes calibration.json or cost.json, and its hash in the manifest with it."""
    edit(path / name, change)
    entry = {"sha256": sha256((path / name).read_bytes())}
    edit(path / MANIFEST, lambda manifest: manifest[name.removesuffix(".json")].update(entry))


def refusal(path: Path) -> str:
    """The one sentence a bundle is refused with."""
    with pytest.raises(BundleError) as refused:
        load_bundle(path)
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_sound_bundle_is_read_whole(path: Path) -> None:
    bundle = load_bundle(path)
    assert (bundle.manifest.name, bundle.manifest.version) == ("digits", 1)
    assert bundle.manifest.labels == tuple("0123456789")
    assert bundle.manifest.num_exits == 3
    assert set(bundle.graphs) == set(GRAPHS)
    assert all(bundle.graphs[name] == (path / name).read_bytes() for name in GRAPHS)
    assert " ".join(bundle.calibration.operating_points) == "fast balanced accurate certified"


@pytest.mark.parametrize("name", [*GRAPHS, CALIBRATION, COST])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_flipped_bit_is_damage(path: Path, name: str, place: float) -> None:
    content = bytearray((path / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (path / name).write_bytes(content)
    assert refusal(path) == (
        f"{path / name} is damaged: its SHA-256 is not the one in manifest.json"
    )


@pytest.mark.parametrize("name", [*GRAPHS, MANIFEST, CALIBRATION, COST])
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    assert refusal(path) == f"{path / name} cannot be read: No such file or directory"


@pytest.mark.parametrize("name", [*GRAPHS, CALIBRATION, COST])
def test_an_empty_file_is_damage(path: Path, name: str) -> None:
    (path / name).write_bytes(b"")
    assert f"{path / name} is damaged" in refusal(path)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    assert refusal(tmp_path / "7") == f"{tmp_path / '7'} is not a bundle directory"


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object(path: Path, content: bytes) -> None:
    (path / MANIFEST).write_bytes(content)
    assert f"{path / MANIFEST} is invalid at the file: " in refusal(path)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_truncated_manifest_is_refused(path: Path, share: float) -> None:
    whole = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(whole[: int(share * len(whole.rstrip()))])
    message = refusal(path)
    (path / MANIFEST).write_bytes(whole)
    assert str(path / MANIFEST) in message


def drop_channel(manifest: Json) -> None:
    manifest["segments"][1]["inputs"][0]["shape"][1] -= 1


def rename_features(manifest: Json) -> None:
    manifest["exit_heads"][2]["inputs"][0]["name"] = "features_1_2"


def forget_a_segment(manifest: Json) -> None:
    del manifest["segments"][1]


def take_no_input(manifest: Json) -> None:
    manifest["segments"][0]["inputs"] = []


def swap_heads(manifest: Json) -> None:
    manifest["exit_heads"].reverse()


def forget_a_label(manifest: Json) -> None:
    manifest["labels"].pop()


BAD_MANIFESTS: list[tuple[Edit, str]] = [
    (lambda m: m.update(colour="red"), "colour: Extra inputs are not permitted"),
    (lambda m: m["segments"][0].update(x=1), "segments.0.x: Extra inputs are not permitted"),
    (lambda m: m.update(schema_version=2), "schema_version: Input should be 1"),
    (lambda m: m.update(version="1"), "version: Input should be a valid integer"),
    (lambda m: m.update(version=0), "version: Input should be greater than 0"),
    (lambda m: m.update(name="../digits"), "name: String should match pattern"),
    (lambda m: m["input"].update(channels=2), "input.image.channels: Input should be 1 or 3"),
    (lambda m: m["input"].update(height=9), "segment_1.onnx takes images: uint8 [-1, 8, 8, 1]"),
    (lambda m: m.pop("cost"), "cost: Field required"),
    (lambda m: m["segments"][0].update(macs=-1), "segments.0.macs: Input should be greater"),
    (drop_channel, "segment_2.onnx takes features_1_0: float32 [-1, 15, 8, 8]"),
    (rename_features, "exit_3.onnx takes features_1_2"),
    (forget_a_segment, "segments must be numbered 1 to 2, in order"),
    (take_no_input, "segments.0.inputs: Tuple should have at least 1 item"),
    (swap_heads, "exit_heads must be numbered 1 to 3, in order"),
    (forget_a_label, "exit_1.onnx must give one logit per label: 9"),
]


@pytest.mark.parametrize(("change", "complaint"), BAD_MANIFESTS)
def test_a_manifest_that_contradicts_itself(path: Path, change: Edit, complaint: str) -> None:
    edit(path / MANIFEST, change)
    message = refusal(path)
    assert message.startswith(f"{path / MANIFEST} is invalid at ")
    assert complaint in message


@pytest.mark.parametrize(
    "name",
    [
        "../segment_1.onnx",
        "/tmp/segment_1.onnx",
        "a/b.onnx",
        "..",
        "a\\b.onnx",
        "a.onnx\n",
        ".onnx",
    ],
)
@pytest.mark.parametrize("entry", ["segment", "calibration"])
def test_a_file_name_never_leaves_the_directory(path: Path, name: str, entry: str) -> None:
    outside = path.parent / "segment_1.onnx"
    shutil.copy(path / "segment_1.onnx", outside)

    def point_elsewhere(manifest: Json) -> None:
        graph = manifest["segments"][0] if entry == "segment" else manifest["calibration"]
        graph["file"] = name

    edit(path / MANIFEST, point_elsewhere)
    assert re.search(r"invalid at [a-z0-9.]*file: String should match pattern", refusal(path))


def test_a_calibration_from_before_certificates_is_read(path: Path) -> None:
    def drop_certificates(calibration: Json) -> None:
        for point in calibration["operating_points"].values():
            del point["certificate"]

    edit_signed(path, CALIBRATION, drop_certificates)
    points = load_bundle(path).calibration.operating_points
    assert {point.certificate for point in points.values()} == {None}


def fast(calibration: Json) -> Json:
    point: Json = calibration["operating_points"]["fast"]
    return point


BAD_CALIBRATIONS: list[tuple[Edit, str]] = [
    (lambda c: fast(c)["thresholds"].pop(0), "fast must have a threshold for every exit but"),
    (lambda c: fast(c).update(thresholds=[0.5, None, None]), "fast must have a threshold"),
    (lambda c: fast(c).update(thresholds=[0.5, 0.5, 0.5]), "fast must have a threshold"),
    (lambda c: fast(c).pop("thresholds"), "operating_points.fast.thresholds: Field required"),
    (lambda c: fast(c).update(thresholds=[1.5, 0.5, None]), "less than or equal to 1"),
    (lambda c: fast(c).update(consulted=[1]), "fast must consult exits in order, the last one"),
    (lambda c: fast(c).update(consulted=[2, 1, 3]), "fast must consult exits in order"),
    (lambda c: fast(c).update(consulted=[]), "consulted: Tuple should have at least 1 item"),
    (lambda c: fast(c).update(exit_shares=[1.0]), "fast must have an exit share for every exit"),
    (
        lambda c: fast(c)["certificate"].update(max_accuracy_drop=-0.1),
        "greater than or equal to 0",
    ),
    (lambda c: fast(c)["certificate"].pop("num_rows"), "certificate.num_rows: Field required"),
    (lambda c: c["rows"].update(is_right="AAAA"), "rows must have 250 rows of 3 exits"),
    (lambda c: c["rows"].update(confidences="A"), "rows.confidences: Base64 decoding error"),
    (lambda c: c["exits"].reverse(), "exits must be numbered 1 to 3, in order"),
    (lambda c: c["exits"][0].update(calibration_temperature=0), "greater than 0"),
    (lambda c: c.update(operating_points={}), "operating_points: Dictionary should have at least"),
    (
        lambda c: c.update(confidence="entropy"),
        "confidence: Input should be 'max_probability' or 'margin'",
    ),
]


@pytest.mark.parametrize(("change", "complaint"), BAD_CALIBRATIONS)
def test_a_calibration_that_cannot_steer(path: Path, change: Edit, complaint: str) -> None:
    edit_signed(path, CALIBRATION, change)
    message = refusal(path)
    assert message.startswith(f"{path / CALIBRATION} is invalid at ")
    assert complaint in message


BAD_COSTS: list[tuple[Edit, str]] = [
    (lambda c: c["segments"][0]["p95_s"].pop(), "exit 1 must have one cost per batch size"),
    (lambda c: c["batch_sizes"].reverse(), "batch_sizes must rise"),
    (lambda c: c["exit_heads"][2]["median_s"].__setitem__(0, -1e-9), "greater than or equal to 0"),
    (lambda c: c.update(watts=0), "watts: Input should be greater than 0"),
    (lambda c: c["segments"][0]["p95_s"].__setitem__(0, float("nan")), "finite number"),
]


@pytest.mark.parametrize(("change", "complaint"), BAD_COSTS)
def test_a_cost_profile_with_gaps(path: Path, change: Edit, complaint: str) -> None:
    edit_signed(path, COST, change)
    message = refusal(path)
    assert message.startswith(f"{path / COST} is invalid at ")
    assert complaint in message


def test_every_exit_needs_its_cost_and_its_calibration(path: Path) -> None:
    edit_signed(path, COST, lambda cost: cost["exit_heads"].pop())
    assert refusal(path) == f"{path / COST} must cover exits 1 to 3"

    def drop_an_exit(calibration: Json) -> None:
        calibration["exits"].pop()
        calibration["rows"] = None
        for point in calibration["operating_points"].values():
            point.update(thresholds=[0.5, None], consulted=[2], exit_shares=[0, 1])

    edit_signed(path, CALIBRATION, drop_an_exit)
    assert refusal(path) == f"{path / CALIBRATION} must cover exits 1 to 3"
