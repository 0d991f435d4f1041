"""The numbers of Phuong & Lampert (ICCV 2019) that a reproduction is set beside.

Top-5 accuracy in percent on CIFAR-100, for the 11 exits of `msdnet-11`, by images per class and
training method.
"""

PublishedTable = dict[int, dict[str, tuple[float, ...]]]

BUDGET_MODE: PublishedTable = {
    150: {
        "exit-wise": (72.4, 75.5, 77.4, 78.4, 79.2, 79.8, 80.1, 80.3, 80.3, 80.4, 80.3),
        "distillation": (78.7, 80.5, 80.9, 81.2, 81.2, 81.2, 81.1, 81.1, 81.1, 81.1, 81.1),
        "semi-supervised": (79.9, 81.1, 81.0, 81.0, 81.0, 81.0, 81.0, 81.0, 81.0, 81.0, 81.0),
    },
    250: {
        "exit-wise": (80.6, 83.4, 84.9, 86.0, 86.8, 87.4, 87.6, 87.9, 88.0, 88.0, 87.9),
        "distillation": (85.6, 87.5, 88.4, 88.6, 88.8, 88.8, 88.8, 88.8, 88.8, 88.8, 88.8),
        "semi-supervised": (86.5, 88.2, 88.5, 88.7, 88.7, 88.7, 88.7, 88.7, 88.7, 88.7, 88.7),
    },
    350: {
        "exit-wise": (84.5, 87.2, 88.8, 89.6, 90.1, 90.5, 90.7, 90.8, 90.8, 90.8, 90.8),
        "distillation": (88.1, 90.1, 91.1, 91.3, 91.4, 91.5, 91.5, 91.5, 91.5, 91.5, 91.5),
        "semi-supervised": (88.5, 90.4, 91.2, 91.5, 91.5, 91.5, 91.5, 91.5, 91.5, 91.5, 91.5),
    },
    500: {
        "exit-wise": (87.5, 89.8, 91.2, 91.8, 92.3, 92.6, 92.9, 93.0, 93.1, 93.1, 93.1),
        "distillation": (90.0, 92.0, 92.9, 93.1, 93.1, 93.1, 93.1, 93.1, 93.1, 93.1, 93.1),
    },
}
"""Table 2: the exit that validates best among those that fit each exit's cost."""

ANYTIME_MODE: PublishedTable = {
    150: {
        "exit-wise": (72.4, 75.8, 77.9, 79.1, 80.0, 80.7, 81.2, 81.6, 81.9, 82.1, 82.2),
        "distillation": (78.7, 80.8, 81.8, 82.3, 82.7, 82.8, 82.9, 82.9, 82.9, 82.9, 82.8),
        "semi-supervised": (79.9, 81.5, 82.1, 82.3, 82.3, 82.3, 82.3, 82.3, 82.2, 82.2, 82.1),
    },
    250: {
        "exit-wise": (80.6, 83.7, 85.5, 86.4, 87.2, 87.8, 88.3, 88.7, 88.9, 89.1, 89.1),
        "distillation": (85.6, 87.6, 88.7, 89.2, 89.5, 89.6, 89.8, 89.8, 89.9, 89.9, 89.8),
        "semi-supervised": (86.5, 88.3, 89.1, 89.4, 89.6, 89.7, 89.8, 89.8, 89.8, 89.8, 89.8),
    },
    350: {
        "exit-wise": (84.5, 87.5, 89.1, 90.0, 90.5, 91.0, 91.3, 91.5, 91.7, 91.8, 91.9),
        "distillation": (88.1, 90.0, 91.2, 91.6, 91.8, 92.0, 92.1, 92.1, 92.1, 92.2, 92.2),
        "semi-supervised": (88.5, 90.4, 91.4, 91.8, 92.1, 92.2, 92.3, 92.3, 92.3, 92.3, 92.3),
    },
    500: {
        "exit-wise": (87.5, 90.0, 91.4, 92.2, 92.7, 93.1, 93.4, 93.6, 93.7, 93.8, 93.9),
        "distillation": (90.0, 91.9, 92.9, 93.4, 93.6, 93.7, 93.8, 93.8, 93.8, 93.9, 93.9),
    },
}
"""Table 6: the ensemble of the exits so far."""

FINDINGS = {
    "temperature": "a constant distillation temperature of 1 is clearly worse than annealing it; "
    "2, 3 and 4 are as good (figures 7 and 8)",
    "teachers": "teaching by all later exits gains nothing over teaching by the last (figure 9)",
}
"""What the paper's plots without tables say, by the name of the experiment here."""

NUM_EXITS = 11


def counterpart(exit: int, num_exits: int) -> int:
    """The paper's exit at the same place among its eleven, first and last to first and last."""
    return 1 + round((exit - 1) / max(1, num_exits - 1) * (NUM_EXITS - 1))
