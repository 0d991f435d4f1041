"""What a user would write today: FastAPI, Pillow and onnxruntime around the uncut network.

Two uvicorn workers, each with a session on one thread: on two cores the fastest of its kind.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from fastapi import FastAPI, Request
from onnx import compose, helper
from PIL import Image

from benchmarks.process import ServerProcess, free_port, started
from models.bundle.bundle import Bundle

PATH = "PLAIN_SERVER_NETWORK"
WORKERS = 2


def create_app() -> FastAPI:
    """The whole server."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(os.environ[PATH], options, providers=["CPUExecutionProvider"])
    (input_name,) = [i.name for i in session.get_inputs()]
    app = FastAPI()

    @app.post("/v1/classify")
    async def classify(request: Request) -> dict[str, Any]:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        (logits,) = session.run(None, {input_name: np.asarray(image)[None]})
        exponentials = np.exp(logits[0] - logits[0].max())
        index = int(logits[0].argmax())
        return {
            "index": index,
            "confidence": float(exponentials[index] / exponentials.sum()),
        }

    @app.get("/readyz")
    async def readyz() -> str:
        return "ready"

    return app


def uncut(bundle: Bundle) -> onnx.ModelProto:
    """All segments and the last exit head as one graph, without the heads before it.

    The names of features link one graph to the next; all other names get a prefix.
    """
    manifest = bundle.manifest
    parts = [
        compose.add_prefix(
            onnx.load_model_from_string(bundle.graphs[graph.file]),
            f"{graph.file}/",
            rename_inputs=False,
            rename_outputs=False,
        )
        for graph in (*manifest.segments, manifest.exit_heads[-1])
    ]
    first, last = parts[0], parts[-1]
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "uncut",
        first.graph.input,
        last.graph.output,
        [tensor for part in parts for tensor in part.graph.initializer],
    )
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)


@contextmanager
def serving_plainly(bundle: Bundle, directory: Path) -> Iterator[ServerProcess]:
    """The plain server in processes of its own, until leaving."""
    port = free_port()
    network = directory / f"uncut-{port}.onnx"
    onnx.save(uncut(bundle), network)
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "benchmarks.plain:create_app"),
        *("--port", str(port), "--workers", str(WORKERS), "--no-access-log"),
    ]
    with started(command, port, {PATH: str(network)}) as server:
        yield server
