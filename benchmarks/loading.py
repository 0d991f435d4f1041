"""Images to send, and the load generator started beside a server."""

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.load import Shot
from benchmarks.process import ROOT
from training.data import LabelledImages, open_images


@dataclass(frozen=True)
class Traffic:
    """Test images as PNG in a file that the load generator reads, and their labels."""

    images: LabelledImages
    pngs: list[bytes]
    path: Path

    def load(self, url: str, **options: object) -> list[Shot]:
        """Runs the load generator in a process of its own; options are those of its command."""
        flags = [f"--{name}={value}" for name, value in options.items()]
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
            command = [sys.executable, "-m", "benchmarks.load", url, str(self.path), out.name]
            subprocess.run([*command, *flags], cwd=ROOT, check=True)
            return [Shot(**json.loads(line)) for line in Path(out.name).read_text().splitlines()]

    def accuracy(self, shots: Sequence[Shot]) -> float:
        """Share of right labels among the answers; 0 without any."""
        labels = self.images.labels.tolist()
        right = [shot.answer["index"] == labels[shot.image] for shot in shots if shot.answer]
        return float(np.mean(right)) if right else 0.0


def latency_ms(shots: Sequence[Shot], quantile: float) -> float:
    """A quantile of the latencies of those answered, nan without any."""
    latencies = [shot.latency_s for shot in shots if shot.status == 200]
    return 1000 * float(np.quantile(latencies, quantile)) if latencies else float("nan")


def traffic(data: str, num_images: int, directory: Path) -> Traffic:
    """The same random test images every time."""
    test = open_images(data, "test")
    rows = np.random.default_rng(0).permutation(len(test.labels))[:num_images]
    chosen = test.take(np.sort(rows))
    pngs = [encode(image) for image in chosen.images.numpy()]
    path = directory / "images.npz"
    np.savez(path, *[np.frombuffer(png, np.uint8) for png in pngs])
    return Traffic(chosen, pngs, path)


def encode(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()
