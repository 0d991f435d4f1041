"""REST and gRPC side by side: every image is asked of both, in the same words.

python -m benchmarks.protocols models/zoo/cifar100-msdnet/7 data/cifar100 --images 500
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_rest
import typer
from numpy.typing import NDArray

from benchmarks.process import free_port, serving
from models.bundle.bundle import load_bundle
from models.bundle.profile import hardware
from training.data import load_images

OUTPUTS = ("probabilities", "label", "exit", "confidence", "stop_reason")
SURE = {"threshold": 1.0}
"""No exit is confident enough: the budget alone decides where an answer stops."""
AMPLE_US = 60_000_000
WISHES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "fast": {"parameters": {"operating_point": "fast"}},
    "all exits": {"parameters": SURE},
    "at most exit 2": {"parameters": SURE | {"max_exit": 2}},
    "no time": {"parameters": SURE, "timeout": 1},
    "ample time": {"parameters": SURE, "timeout": AMPLE_US},
    "no energy": {"parameters": SURE | {"energy_budget_mj": 1e-6}},
}
"""What is asked; none of the answers depends on how fast the server is."""

app = typer.Typer()


@app.command()
def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle to serve.")],
    data: Annotated[Path, typer.Argument(help="Data set whose test images are asked for.")],
    images: Annotated[int, typer.Option(help="Images to ask for.")] = 500,
) -> None:
    """Prints how many answers are alike for every wish; fails where one is not."""
    name, port = load_bundle(bundle).manifest.name, free_port()
    rows = load_images(str(data), "test").images.numpy()[:images]
    with serving(bundle.parents[1], grpc_port=port, access_log=False) as server:
        alike = compare(server.url.removeprefix("http://"), f"127.0.0.1:{port}", name, rows)
    print(f"{hardware()}: of {len(rows)} images alike: {dict(alike)}")
    if any(alike[wish] < len(rows) for wish in WISHES):
        raise SystemExit("REST and gRPC differ")


def compare(rest: str, grpc: str, model: str, images: NDArray[np.uint8]) -> Counter[str]:
    """How many images get the same answer from both addresses, for every wish."""
    alike: Counter[str] = Counter()
    with (
        over_rest.InferenceServerClient(rest, network_timeout=60) as first,
        over_grpc.InferenceServerClient(grpc) as second,
    ):
        for wish, asked in WISHES.items():
            for row in range(len(images)):
                batch = images[row : row + 1]
                said = [
                    ask(client, module, model, batch, asked)
                    for client, module in ((first, over_rest), (second, over_grpc))
                ]
                if all(np.array_equal(a, b) for a, b in zip(*said, strict=True)):
                    alike[wish] += 1
                else:
                    print(f"{wish}, image {row}: {' but '.join(map(brief, said))}", flush=True)
    return alike


def brief(said: list[NDArray[Any]]) -> str:
    """An answer, for a message."""
    return ", ".join(str(output.item()) for output in said[1:])


def ask(
    client: Any,  # noqa: ANN401
    module: Any,  # noqa: ANN401
    model: str,
    batch: NDArray[np.uint8],
    asked: dict[str, Any],
) -> list[NDArray[Any]]:
    """Every output that a client is given."""
    tensor = module.InferInput("images", list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(batch)
    wanted = [module.InferRequestedOutput(name) for name in OUTPUTS]
    said = client.infer(model, [tensor], outputs=wanted, **asked)
    return [said.as_numpy(name) for name in OUTPUTS]


if __name__ == "__main__":
    app()
