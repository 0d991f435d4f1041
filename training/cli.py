"""`offramp train`, `export`, `attach` and `evaluate`."""

import json
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.errors import Interrupted, UserError
from models.bundle.image_input import ImageInput, Resize
from models.bundle.profile import hardware
from models.bundle.tensor_input import TensorInput
from models.bundle.text_input import TextInput
from models.nets.multi_exit import NetError
from models.nets.presets import find
from training import loop
from training.attaching.attach import attach as attach_exits
from training.attaching.order import Order
from training.attaching.read import Options
from training.config import RECIPES, TrainConfig
from training.data import ImageSource
from training.data.columns import wanted_columns
from training.data.layout import open_rows
from training.data.numbers import NumberSource, columns_of
from training.data.opening import find_test
from training.data.source import Undecodables
from training.data.sources import Source
from training.data.texts import TextSource
from training.distributed import leave
from training.evaluation import report
from training.evaluation.evaluate import evaluate as evaluate_exits
from training.exporting.export import export as export_run
from training.exporting.export import logits_of
from training.exporting.lengths import at_mean_cost, bucket_shares
from training.paper import comparison, overhead
from training.paper.reproduce import EXPERIMENTS, RECIPE_CHANGES
from training.paper.reproduce import reproduce as run_experiment

NAMES = {name for name, f in TrainConfig.model_fields.items() if f.annotation in (str, str | None)}
"""Settings that are texts, even where a column is called 4."""


def train(run: Path, data: str, net: str, recipe: str, settings: list[str]) -> None:
    """Trains with a recipe, changed by every "name=value" of `settings`."""
    if recipe not in RECIPES:
        raise UserError(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    with network_errors():
        find(net)
    values = {"data": data, "net": net, **RECIPES[recipe], **values_of(settings)}
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(complaint(error.errors()[0])) from error
    with network_errors():
        best = loop.train(config, run, is_rehearsed=True)
    print(f"trained; next: offramp export {run} --name NAME  (from {best})")
    leave()


def complaint(error: ErrorDetails) -> str:
    """What a setting is refused for."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"there is no setting {name}; training/config.py explains those there are"
    reason = error["msg"].removeprefix("Value error, ")
    return f"{name}: {reason}" if name else reason


@contextmanager
def network_errors() -> Iterator[None]:
    """A network that cannot be built is the user's to mend."""
    try:
        yield
    except NetError as error:
        raise UserError(str(error)) from error


def reproduce(
    name: str, data: str, recipe: str, num_seeds: int, num_jobs: int | None, out: Path
) -> None:
    """Runs an experiment and writes its tables, figure and raw results."""
    if name not in (*EXPERIMENTS, "overhead"):
        raise UserError(f"no experiment {name!r}; there are {', '.join(EXPERIMENTS)}, overhead")
    if recipe not in RECIPE_CHANGES:
        raise UserError(f"no recipe {recipe!r}; there are {', '.join(RECIPE_CHANGES)}")
    if name == "overhead":
        print(overhead.markdown(overhead.measure(data, recipe)))
        return
    jobs = num_jobs or torch.cuda.device_count() or len(os.sched_getaffinity(0))
    try:
        with interrupted_by(signal.SIGTERM, signal.SIGHUP):
            results = run_experiment(EXPERIMENTS[name], recipe, data, num_seeds, jobs, out)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on") from None
    tables = comparison.markdown(name, recipe, hardware(), results)
    stem = out / f"{name}-{recipe}"
    stem.with_suffix(".md").write_text(tables)
    rows = [result.model_dump() for result in results]
    stem.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    comparison.plot(name, recipe, results, stem.with_suffix(".png"))
    print(tables)


@contextmanager
def interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Signals act as Ctrl-C does, unless they are ignored, as SIGHUP is under nohup."""
    previous = {number: signal.getsignal(number) for number in numbers}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def values_of(settings: Iterable[str]) -> dict[str, Any]:
    """Every "name=value" by its name; of two with the same name the later one."""
    given = dict(setting.partition("=")[::2] for setting in settings)
    return {name: value_of(name, value) for name, value in given.items()}


def value_of(name: str, text: str) -> object:
    """What a setting means: a number, a list, true, null; else, or of a name, the text itself."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if value is None or isinstance(value, str) or name not in NAMES else text


def export(
    run: Path,
    name: str,
    version: int,
    zoo: Path,
    max_accuracy_drop: float,
    *,
    int8: bool = False,
    skip_undecodable: bool = False,
) -> None:
    with network_errors():
        path = export_run(
            run,
            name,
            version,
            zoo,
            max_accuracy_drop,
            int8=int8,
            skip_undecodable=skip_undecodable,
        )
    print((path / "report.md").read_text())
    print(f"wrote {path}")


def attach(
    model: Path,
    data: str,
    name: str,
    version: int,
    zoo: Path,
    *,
    num_exits: int | None,
    at: str | None,
    labels: Path | None,
    uses_labels: bool,
    size: int | None,
    resize: Resize,
    mean: str | None,
    std: str | None,
    channels_first: bool | None,
    tokenizer: Path | None,
    max_tokens: int | None,
    max_disagreement: float,
    int8: bool,
    cache: Path | None,
    seed: int,
) -> None:
    """Attaches exits and prints the report."""
    if at and num_exits is not None:
        raise UserError("--at says how many exits there are: leave out --exits")
    means, stds = numbers("--mean", mean), numbers("--std", std)
    order = Order(
        model=model,
        data=data,
        name=name,
        version=version,
        zoo=zoo,
        options=Options(size, resize, means, stds, channels_first, tokenizer, max_tokens),
        num_exits=num_exits,
        tensors=tuple(at.split(",")) if at else (),
        labels=labels,
        uses_labels=uses_labels,
        max_disagreement=max_disagreement,
        int8=int8,
        cache=cache,
        seed=seed,
    )
    try:
        path = attach_exits(order)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on") from None
    print((path / "report.md").read_text())
    print(f"wrote {path}; next: offramp serve --zoo {zoo}")


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers separated by commas."""
    if text is None:
        return None
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise UserError(f"{option} takes numbers, one or one a channel, not {text!r}") from error


def test_source(bundle: Bundle, data: str, undecodable: Undecodables) -> Source:
    """The test split of data of the bundle's kind, made into what segment 1 takes."""
    takes, labels = bundle.manifest.input, bundle.manifest.labels
    if isinstance(takes, ImageInput):
        return ImageSource(open_rows(data, "test", labels), takes, undecodable)
    known = bundle.manifest.provenance.config
    names = (known.get(name) for name in ("text_column", "label_column", "number_columns"))
    wanted, is_text = wanted_columns(*names), isinstance(takes, TextInput)
    if isinstance(takes, TensorInput):
        wanted = replace(wanted, numbers=columns_of(takes) or wanted.numbers)
    rows = find_test(data, wanted, labels)
    if rows is None or (rows.values is None) != is_text:
        raise UserError(f"{data} has no {'texts' if is_text else 'numbers'}")
    if isinstance(takes, TextInput):
        return TextSource(rows, takes, bundle.tokenizer.decode())
    return NumberSource(rows, takes)


def evaluate(path: Path, data: str, out: Path | None, *, skip_undecodable: bool = False) -> None:
    bundle = load_bundle(path)
    manifest = bundle.manifest
    source = test_source(bundle, data, "skip" if skip_undecodable else "refuse")
    graphs = list(manifest.segments), list(manifest.exit_heads), bundle.graphs
    tested = np.arange(len(source.labels))
    logits, labels = logits_of(graphs, source, tested, "evaluating")
    bundle = at_mean_cost(bundle, bucket_shares(source, tested))
    results = evaluate_exits(bundle, logits, labels, data=Path(data).name, split="test")
    print(report.markdown(results))
    if out is not None:
        report.write(results, out)
