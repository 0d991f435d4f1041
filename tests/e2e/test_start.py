"""A server starts with what it can serve, or says in one sentence why not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import onnx

from benchmarks.process import ROOT
from models.bundle.bundle import Bundle, sha256
from tests.bundles import copied
from tests.conftest import Serve
from tests.server.live import PNG, samples


def refusal(*arguments: str, status: int = 1, **environment: str) -> str:
    """What a server that must not start prints last; all of it for a wrong command line."""
    command = [sys.executable, "-m", "offramp", "serve", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1] if status == 1 else done.stderr


def test_flipped_byte_is_refused_by_name(digits_zoo: Path, tmp_path: Path) -> None:
    """tests/models/bundle/test_bundle.py damages the other files."""
    shutil.copytree(digits_zoo, tmp_path / "zoo")
    path = tmp_path / "zoo/digits/1/segment_2.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"{path} is damaged" in refusal("--zoo", str(tmp_path / "zoo"))


def test_directories_must_be_named_for_the_bundle(digits_zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_zoo / "digits/1", tmp_path / "letters/1")
    assert "holds digits version 1" in refusal("--zoo", str(tmp_path))


def test_graph_that_cannot_run_is_refused(digits_zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_zoo, tmp_path / "zoo")
    path = tmp_path / "zoo/digits/1"
    graph = onnx.load(path / "segment_2.onnx")
    graph.graph.node[0].op_type = "Unheard"
    (path / "segment_2.onnx").write_bytes(graph.SerializeToString())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["segments"][1]["sha256"] = sha256((path / "segment_2.onnx").read_bytes())
    (path / "manifest.json").write_text(json.dumps(manifest))
    said = refusal("--zoo", str(tmp_path / "zoo"))
    assert f"{path} cannot be run: segment_2.onnx" in said


def test_a_bad_bundle_does_not_keep_the_others_from_serving(
    serve: Serve, digits_bundle: Bundle, tmp_path: Path
) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 1)
    for name, version in (("digits", 2), ("letters", 1)):
        copied(digits_bundle.path, tmp_path, name, version)
        (tmp_path / name / str(version) / "exit_1.onnx").write_bytes(b"")
    with serve(tmp_path, profile_s=0.2) as server, httpx.Client(base_url=server.url) as client:
        headers = {"content-type": "image/png"}
        for model, status in (("digits", 200), ("letters", 503), ("words", 404)):
            said = client.post(f"/v1/classify?model={model}", content=PNG, headers=headers)
            assert said.status_code == status
            assert str(tmp_path) not in said.text
        assert client.get("/v2/models/letters/ready").json() == {
            "error": "letters version 1 is not served: refused"
        }
        said = client.post("/v1/classify", content=PNG, headers=headers)
        assert said.json()["version"] == 1
        entries = client.post("/v2/repository/index").json()
        assert [entry["state"] for entry in entries] == ["READY", "UNAVAILABLE", "UNAVAILABLE"]
        assert all("exit_1.onnx is damaged" in entry["reason"] for entry in entries[1:])
        for model in ("digits", "letters"):
            series = f'offramp_model_load_failures_total{{model="{model}"}}'
            assert samples(server.url)[series] == 1
        assert server.log.read_text().count("refused: ") == 2


def test_missing_zoo_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal("--zoo", str(tmp_path / "nowhere"))


def test_empty_zoo_is_refused(tmp_path: Path) -> None:
    assert "holds no bundle" in refusal("--zoo", str(tmp_path))


def test_unknown_setting_is_refused(digits_zoo: Path) -> None:
    assert "OFFRAMP_PROT" in refusal("--zoo", str(digits_zoo), OFFRAMP_PROT="1")
    assert "--prot" in refusal("--zoo", str(digits_zoo), "--prot", "1", status=2)


def test_bad_setting_is_refused(digits_zoo: Path) -> None:
    assert "OFFRAMP_MAX_IMAGES" in refusal("--zoo", str(digits_zoo), "--max-in-flight", "3")
    assert "OFFRAMP_MAX_HELD_BYTES" in refusal("--zoo", str(digits_zoo), "--max-held-bytes", "1000")
    assert "OFFRAMP_WORKERS" in refusal("--zoo", str(digits_zoo), OFFRAMP_WORKERS="0")
    assert "'--port'" in refusal("--zoo", str(digits_zoo), "--port", "70000", status=2)


def test_serving_never_imports_torch(digits_zoo: Path) -> None:
    code = (
        "import sys; from server.app import create_app, load_catalog; "
        "from server.telemetry.metrics import Metrics; from server.settings import load_settings; "
        "metrics = Metrics(); settings = load_settings(zoo=sys.argv[1], profile_s=0.1); "
        "create_app(settings, load_catalog(settings, metrics), metrics); "
        "print([m for m in ('torch', 'onnx', 'training', 'sklearn') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(digits_zoo)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_versions_are_served_side_by_side(
    serve: Serve, digits_bundle: Bundle, tmp_path: Path
) -> None:
    for version in (1, 2):
        copied(digits_bundle.path, tmp_path, "digits", version)
    with serve(tmp_path, profile_s=0.2) as server:
        listed = httpx.get(f"{server.url}/v1/models/digits").json()["versions"]
        assert [entry["version"] for entry in listed] == [2, 1]


def test_sigterm_ends_a_server_cleanly(serve: Serve, digits_zoo: Path) -> None:
    with serve(digits_zoo, profile_s=0.2) as server:
        server.process.terminate()
        assert server.process.wait(20) == 0
