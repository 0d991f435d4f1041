"""What the benchmarks on texts print, from numbers that are known."""

import numpy as np

from benchmarks.intents import config_of, table
from benchmarks.out_of_scope import auroc


def test_gains_are_paired_by_seed() -> None:
    found = {
        "distillation": np.array([[80.0, 90.0], [82.0, 90.0]]),
        "exit-wise": np.array([[79.0, 91.0], [79.0, 90.0]]),
    }
    first, last = table(20, found).splitlines()[-2:]
    assert first == "| 1 | 81.00 | 79.00 | +2.00 | +1.00 to +3.00 |"
    assert last == "| 2 | 90.00 | 90.50 | -0.50 | -1.00 to +0.00 |"


def test_few_examples_get_more_epochs_and_methods_differ_in_the_loss_alone() -> None:
    settings = {"data": "data", "net": "text-tiny", "learning_rate": "0.002"}
    few = config_of(settings, "distillation", 20, 1, 12)
    everything = config_of(settings, "exit-wise", None, 1, 12)
    assert (few.epochs, few.images_per_class) == (60, 20)
    assert (everything.epochs, everything.images_per_class) == (12, None)
    decays: dict[str, object] = {"epochs": 12, "decay_epochs": (6, 9)}
    changes = {"loss": "exit-wise", "images_per_class": None} | decays
    assert few.learning_rate == 0.002
    assert few.model_copy(update=changes) == everything


def test_auroc_is_the_chance_that_a_known_text_is_more_confident() -> None:
    known, unknown = np.array([0.9, 0.8, 0.5]), np.array([0.5, 0.1])
    assert auroc(known, unknown) == 5.5 / 6
