"""Images or texts to send, and the load generators started beside a server."""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import httpx
import numpy as np
import torch
from PIL import Image

from benchmarks.load import media_type
from benchmarks.process import ROOT
from load.generator import Shot
from load.outcomes import latency_ms
from training.data import LabelledImages, open_images
from training.data.columns import Wanted
from training.data.folders import FolderRows
from training.data.layout import open_rows
from training.data.opening import find_test
from training.data.rows import Index, Labels

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Closed:
    """What a closed loop got: answers per second and their latencies; failed: all but 200."""

    rate: float
    failed: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Answers:
    """A server's answers to images with known labels; `mean_exit` is nan for a single exit."""

    accuracy: float
    mean_exit: float


@dataclass(frozen=True)
class Traffic:
    """Test images or texts in a directory that load generators read, and their labels.

    `images` holds their pixels, but for photos in folders and for texts.
    """

    images: LabelledImages
    files: list[Path]

    @property
    def directory(self) -> Path:
        return self.files[0].parent

    def load(self, url: str, **options: object) -> list[Shot]:
        """Runs the load generator in a process of its own; options are those of its command."""
        flags = [f"--{name}={value}" for name, value in options.items()]
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
            command = [sys.executable, "-m", "benchmarks.load", url, str(self.directory), out.name]
            subprocess.run([*command, *flags], cwd=ROOT, check=True)
            return [Shot(**json.loads(line)) for line in Path(out.name).read_text().splitlines()]

    def closed_loop(self, url: str, connections: int, seconds: int) -> Closed:
        """As fast as the server answers, by `wrk` where it is installed, as it takes less time."""
        if (wrk := shutil.which("wrk")) is not None:
            flags = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=60s", f"-s{SCRIPT}"]
            files = [str(self.directory), str(len(self.files))]
            command = [wrk, *flags, url, "--", *files]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return Closed(**json.loads(said.splitlines()[-1]))
        shots = self.load(url, connections=connections, seconds=seconds)
        num_answered = sum(shot.status == 200 for shot in shots)
        p50_ms, p99_ms = (latency_ms(shots, quantile) for quantile in (0.5, 0.99))
        rate = num_answered / max(shot.done_s for shot in shots)
        return Closed(rate, len(shots) - num_answered, p50_ms, p99_ms)

    def ask(self, url: str) -> Answers:
        """Asks every image or text once, one after the other."""
        kind = {"content-type": media_type(self.files[0])}
        with httpx.Client(timeout=60, headers=kind) as client:
            said = [client.post(url, content=file.read_bytes()) for file in self.files]
        answers = [response.raise_for_status().json() for response in said]
        labels = self.images.labels.tolist()
        right = [a["index"] == label for a, label in zip(answers, labels, strict=True)]
        return Answers(fmean(right), fmean(a.get("exit", float("nan")) for a in answers))

    def accuracy(self, shots: Sequence[Shot]) -> float:
        """Share of right labels among the answers; 0 without any."""
        answered = [shot for shot in shots if shot.answer]
        return sum(map(self.is_right, answered)) / len(answered) if answered else 0.0

    def is_right(self, shot: Shot) -> bool:
        return bool(shot.answer["index"] == self.images.labels[shot.body].item())


def traffic(data: str, num_images: int, directory: Path) -> Traffic:
    """The same random test rows every time: texts, photos in folders as they are, others as PNG."""
    texts = find_test(data, Wanted(), None)
    if texts is not None and texts.texts:
        texts = texts.take(chosen_rows(len(texts.labels), num_images))
        contents = [text.encode() for text in texts.texts]
        return Traffic(
            without_pixels(texts.labels, texts.names), written(contents, directory, "txt")
        )
    photos = open_rows(data, "test")
    rows = chosen_rows(len(photos.labels), num_images)
    if isinstance(photos, FolderRows):
        contents = [Path(photos.describe(row)).read_bytes() for row in rows.tolist()]
        images = without_pixels(photos.labels[rows], photos.names)
        return Traffic(images, written(contents, directory, "jpeg"))
    test = open_images(data, "test")
    chosen = test.take(rows)
    return Traffic(chosen, written([encode(image) for image in chosen.images.numpy()], directory))


def chosen_rows(num_rows: int, num_chosen: int) -> Index:
    """The same random rows every time, in their order."""
    return np.sort(np.random.default_rng(0).permutation(num_rows)[:num_chosen])


def without_pixels(labels: Labels, names: Sequence[str]) -> LabelledImages:
    pixels = torch.empty(len(labels), 0, dtype=torch.uint8)
    return LabelledImages(pixels, torch.from_numpy(labels), tuple(names))


def written(contents: Sequence[bytes], directory: Path, suffix: str = "png") -> list[Path]:
    """Encoded images or texts as numbered files in a directory of their own."""
    place = directory / "bodies"
    place.mkdir()
    files = [place / f"{number:05d}.{suffix}" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, kind)
    return buffer.getvalue()
