"""Experiments like the paper's: methods times seeds, each a run that resumes where it was."""

import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from pydantic import PositiveInt
from scipy.special import softmax

from models.bundle.errors import UserError
from models.bundle.records import Record
from training import checkpoint, loop
from training.config import RECIPES, TrainConfig, changes
from training.data.errors import listed
from training.evaluation.measures import top_k_accuracy
from training.exporting.export import PARITY_ROWS, checked_graphs, logits_of
from training.exporting.quantize import Graphs
from training.paper.workers import Workers
from training.progress import Progress
from training.run import Stopped
from training.run_data import RunData, open_data

PLAN, LOG, RESULT = "plan.json", "log.txt", "result.json"

METHODS: dict[str, dict[str, object]] = {
    "exit-wise": {"loss": "exit-wise"},
    "distillation": {},
    "semi-supervised": {"unlabelled_per_class": 500},
    "semi-supervised 32+32": {"unlabelled_per_class": 500, "batch_size": 64},
    "temperature 1": {"distillation_temperature": 1.0},
    "temperature 2": {"distillation_temperature": 2.0},
    "temperature 3": {"distillation_temperature": 3.0},
    "temperature 4": {"distillation_temperature": 4.0},
    "all later teach": {"teachers": "all-later"},
    "SGD for 20 epochs": {},
    "Muon for 20 epochs": {"optimizer": "muon"},
}
"""What each method changes in the configuration. All rows that are left are unlabelled; they are
half of each batch. Fine-tuning has 32 labelled rows in a batch; `32+32` adds 32 unlabelled ones."""

CHANGES: dict[str, dict[str, object]] = {
    "shipped recipe": {},
    "Muon": {"optimizer": "muon"},
    "gradient scaling": {"gradient_scaling": True},
    "averaged weights": {"ema_decay": 0.998},
    "cutout": {"cutout": 8},
    "label smoothing": {"label_smoothing": 0.1},
    "ensemble teaches": {"teachers": "ensemble"},
    "cutmix": {"mixing": "cutmix"},
    "mixup": {"mixing": "mixup"},
}
"""Single changes of the shipped network's recipe, likely ones first."""


@dataclass(frozen=True)
class Experiment:
    """Methods to compare where `images_per_class` images of each class have labels, all if None.

    Of CIFAR-100's images 50 per class are for model selection. The short recipe's epochs are fewer
    where there are more images. `changes` are what all methods change of the recipe.
    """

    images_per_class: int | None
    methods: tuple[str, ...]
    short_epochs: int = 60
    changes: Mapping[str, object] = field(default_factory=dict)
    data_name: str = "cifar100"

    @property
    def split_name(self) -> str:
        """Experiments of one name share their runs."""
        return f"{self.data_name}-{self.images_per_class or 'all'}"


PAPERS_METHODS = ("exit-wise", "distillation", "semi-supervised")
FINE_TUNING: dict[str, object] = {
    "net": "examples/efficientnet.py:with_exits",
    "bf16": True,
    "compile": False,  # depthwise convolutions are no faster compiled, on a CPU
    "image_size": 112,
    "selection_per_class": 0,
    "selection_interval": 1,
    "batch_size": 32,
    "schedule": "linear",
    "warmup_epochs": 0.2,
    "learning_rate": 0.1,
    "backbone_learning_rate": 0.01,
    "gradient_scaling": True,
    "crop_padding": 8,
}


FINE_TUNED = ("exit-wise", "distillation", "semi-supervised 32+32")


def fine_tuning(
    images_per_class: int | None, epochs: int, methods: tuple[str, ...] = FINE_TUNED
) -> Experiment:
    """A published network, trained whole on Caltech-101 for about 180 steps of 32 labelled photos.

    The paper has no such experiment. No epoch is selected: few labels leave none to select with.
    """
    changes = {**FINE_TUNING, "epochs": epochs}
    return Experiment(images_per_class, methods, changes=changes, data_name="caltech101")


SHIPPED_RECIPE: dict[str, object] = {
    "schedule": "linear",
    "warmup_epochs": 1,
    "weight_decay": 5e-4,
}

EXPERIMENTS = {
    "cifar100-150": Experiment(150, PAPERS_METHODS),
    "cifar100-250": Experiment(250, PAPERS_METHODS, 20),
    "cifar100-350": Experiment(350, PAPERS_METHODS, 16),
    "cifar100-500": Experiment(500, ("exit-wise", "distillation"), 24),
    "semi-supervised": Experiment(80, PAPERS_METHODS),
    "temperature": Experiment(150, ("distillation", *(m for m in METHODS if "temp" in m))),
    "teachers": Experiment(150, ("distillation", "all later teach")),
    "recipe": Experiment(250, tuple(CHANGES), 4, SHIPPED_RECIPE),
    "muon": Experiment(250, ("SGD for 20 epochs", "Muon for 20 epochs"), 20, SHIPPED_RECIPE),
    "caltech101-5": fine_tuning(5, 12, (*FINE_TUNED, "temperature 1")),
    "caltech101-10": fine_tuning(10, 6),
    "caltech101-20": fine_tuning(20, 3),
    "caltech101-all": fine_tuning(None, 1, ("exit-wise", "distillation")),
}

RECIPE_CHANGES: dict[str, dict[str, object]] = {
    "paper": {"net": "msdnet-11", "bf16": torch.cuda.is_available()},
    "short": {
        "net": "msdnet-5",
        "selection_interval": 5,
        "bf16": True,
        "compile": not torch.cuda.is_available(),
    },
}
"""`paper` is the paper's network and 300 epochs. `short` keeps its batch, learning rate and weight
decay, and divides the learning rate after the same half and three quarters of the experiment's
short epochs, for a narrow network with 5 exits."""


class Plan(Record):
    """One run to make."""

    method: str
    config: TrainConfig


class ExitAccuracy(Record):
    """One exit of one run: accuracies as shares of rows, on the test and any selection split."""

    macs: int
    macs_all_heads: int
    selection_top1: float | None
    top1: float
    top5: float
    ensemble_top1: float
    ensemble_top5: float


class RunResult(Record):
    """What one run gave, at its best epoch."""

    method: str
    seed: int
    git_commit: str
    net: str
    images_per_class: PositiveInt | None
    epochs: PositiveInt
    best_epoch: PositiveInt
    distillation_temperature: float
    parameters: int
    exits: list[ExitAccuracy]


def reproduce(
    experiment: Experiment, recipe: str, data: str, num_seeds: int, num_jobs: int, out: Path
) -> list[RunResult]:
    """Trains and evaluates every method with seeds 0, 1, ..., at most `num_jobs` at once.

    Runs live in `out`/`recipe`. A finished run is not repeated, an unfinished one goes on. Raises
    UserError where a finished one was planned otherwise. A run that fails, or KeyboardInterrupt,
    stops all other runs; a run that is training leaves a checkpoint.
    """
    runs = out / recipe / experiment.split_name
    workers = Workers(num_jobs)

    def run(seed: int, method: str) -> RunResult:
        directory = runs / f"{method.replace(' ', '-')}-seed{seed}"
        plan = Plan(method=method, config=config_of(experiment, method, seed, recipe, data))
        if (directory / RESULT).is_file():
            refuse_another(plan, directory)
        else:
            start(plan, directory, workers)
        return RunResult.model_validate_json((directory / RESULT).read_bytes())

    pool, futures = ThreadPoolExecutor(num_jobs), list[Future[RunResult]]()
    try:
        for seed, method in product(range(num_seeds), experiment.methods):
            futures.append(pool.submit(run, seed, method))
        results = []
        with Progress(len(futures), "runs", "run") as bar:
            for future in as_completed(futures):
                results.append(future.result())
                bar.update()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):
            workers.stop()
            time.sleep(0.05)
    return sorted(results, key=lambda r: (experiment.methods.index(r.method), r.seed))


def refuse_another(plan: Plan, directory: Path) -> None:
    """Raises UserError where a finished run had another configuration; published ones keep none."""
    if not (directory / PLAN).is_file():
        return
    kept, config = Plan.model_validate_json((directory / PLAN).read_bytes()).config, plan.config
    places = {Path(data).expanduser().resolve() for data in (kept.data, config.data)}
    if len(places) == 1:
        kept = kept.model_copy(update={"data": config.data})
    if differing := changes(kept, config):
        raise UserError(
            f"{directory} holds the result of another configuration: {listed(differing)}; name "
            "another directory: --out DIR"
        )


def start(plan: Plan, directory: Path, workers: Workers) -> None:
    """Trains and evaluates what is planned, in a process of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / PLAN).write_text(plan.model_dump_json(indent=1) + "\n")
    command = [sys.executable, "-m", "training.paper.reproduce", str(directory)]
    if workers.run(command, directory / LOG):
        raise UserError(f"{directory} stopped: see {directory / LOG}; the same command goes on")


def config_of(
    experiment: Experiment, method: str, seed: int, recipe: str, data: str
) -> TrainConfig:
    """The configuration of one run."""
    schedule = {"epochs": experiment.short_epochs} if recipe == "short" else {}
    return TrainConfig.model_validate(
        {
            **RECIPES["paper"],
            **RECIPE_CHANGES[recipe],
            **schedule,
            **experiment.changes,
            **(METHODS | CHANGES)[method],
            "data": data,
            "images_per_class": experiment.images_per_class,
            "calibration_per_class": 0,
            "seed": seed,
        }
    )


def run_plan(directory: Path) -> None:
    """Trains the planned run, or what is left of it, and evaluates it on exported segments."""
    plan = Plan.model_validate_json((directory / PLAN).read_bytes())
    config = plan.config
    best = checkpoint.load(loop.train(config, directory, print))
    data = open_data(config, directory, is_new=False)
    some = data.splits.train[:PARITY_ROWS]
    graphs = checked_graphs(best, data.train.take(some).inputs)
    segments, heads, _ = graphs
    result = RunResult(
        method=plan.method,
        seed=config.seed,
        git_commit=best.git_commit,
        net=config.net,
        images_per_class=config.images_per_class,
        epochs=config.epochs,
        best_epoch=best.epoch,
        distillation_temperature=best.distillation_temperature,
        parameters=sum(g.parameters for g in (*segments, *heads)),
        exits=judge(graphs, data),
    )
    keep(result, directory)


def keep(result: RunResult, directory: Path) -> None:
    """Writes aside and renames: a result is there whole or not at all."""
    aside = directory / f".{RESULT}"
    aside.write_text(result.model_dump_json(indent=1) + "\n")
    os.replace(aside, directory / RESULT)


def judge(graphs: Graphs, data: RunData) -> list[ExitAccuracy]:
    """Every exit, alone and in the ensemble of the exits so far: the mean of their softmaxes."""
    segments, heads, _ = graphs
    selected: list[float | None] = [None] * len(heads)
    if len(data.splits.selection):
        validated, truth = logits_of(graphs, data.train, data.splits.selection, "selecting")
        selected = [top_k_accuracy(z, truth, 1) for z in validated]
    tested, labels = logits_of(graphs, data.test, np.arange(len(data.test.labels)), "testing")
    trunk_macs, head_macs = (np.cumsum([g.macs for g in graphs]) for graphs in (segments, heads))
    exits, ensemble = [], np.zeros_like(tested[0])
    for i, z in enumerate(tested):
        ensemble = ensemble + softmax(z, axis=1)
        exits.append(
            ExitAccuracy(
                macs=int(trunk_macs[i] + heads[i].macs),
                macs_all_heads=int(trunk_macs[i] + head_macs[i]),
                selection_top1=selected[i],
                top1=top_k_accuracy(z, labels, 1),
                top5=top_k_accuracy(z, labels, 5),
                ensemble_top1=top_k_accuracy(ensemble, labels, 1),
                ensemble_top5=top_k_accuracy(ensemble, labels, 5),
            )
        )
    return exits


if __name__ == "__main__":
    try:
        run_plan(Path(sys.argv[1]))
    except Stopped as stopped:
        sys.exit(str(stopped))
