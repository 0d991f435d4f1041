"""Whether a text model is less sure of texts that belong to none of its labels.

`python -m benchmarks.out_of_scope BUNDLE DATA OTHERS.parquet` prints, for each exit and for each
operating point, the chance that a text of the test split is more confident than one of the others:
the AUROC of telling them apart by confidence. OTHERS is a table with a column of texts.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.confidence import calibrated_probabilities, confidence
from models.bundle.policy import policy_at
from models.bundle.text_input import TextInput
from training.cli import test_source
from training.data.columns import text_column
from training.data.records import Records, texts_of
from training.data.tabular import load
from training.data.texts import TextSource
from training.evaluation.replay import walk
from training.exporting.export import logits_of

Confidences = NDArray[np.floating]


def confidences(bundle: Bundle, source: TextSource) -> Confidences:
    """(rows, exits), calibrated."""
    manifest = bundle.manifest
    graphs = list(manifest.segments), list(manifest.exit_heads), bundle.graphs
    logits, _ = logits_of(graphs, source, np.arange(len(source.labels)), "asking")
    temperatures = [exit.calibration_temperature for exit in bundle.calibration.exits]
    found = [
        confidence(calibrated_probabilities(z, t), bundle.calibration.confidence)
        for z, t in zip(logits, temperatures, strict=True)
    ]
    return np.stack(found, axis=1)


def others(path: Path, bundle: Bundle) -> TextSource:
    """Texts without labels that the model knows."""
    assert isinstance(bundle.manifest.input, TextInput)
    table = load([path], str(path))
    column = text_column(table, None)
    if column is None:
        raise typer.BadParameter(f"{path} has no column of texts")
    texts = texts_of(table, column, str(path))
    rows = Records(str(path), bundle.manifest.labels, np.zeros(len(texts), np.int64), texts)
    return TextSource(rows, bundle.manifest.input, bundle.tokenizer.decode())


def answered(bundle: Bundle, point: str, found: Confidences) -> Confidences:
    """The confidence of each row's answer at an operating point."""
    policy = policy_at(bundle.calibration.operating_points[point])
    exits = [walk(policy, row)[0][-1] for row in found.tolist()]
    kept: Confidences = found[np.arange(len(found)), np.array(exits) - 1]
    return kept


def auroc(known: Confidences, unknown: Confidences) -> float:
    truth = np.repeat([1, 0], [len(known), len(unknown)])
    return float(roc_auc_score(truth, np.append(known, unknown)))


def main(
    path: Annotated[Path, typer.Argument(help="A bundle of texts.")],
    data: Annotated[str, typer.Argument(help="Texts with labels, as for train.")],
    out_of_scope: Annotated[Path, typer.Argument(help="A table of texts that have no label.")],
) -> None:
    """Prints a line for each exit, then one for each operating point."""
    bundle = load_bundle(path)
    known_source = test_source(bundle, data, "refuse")
    assert isinstance(known_source, TextSource)
    known, unknown = (confidences(bundle, s) for s in (known_source, others(out_of_scope, bundle)))
    print(f"{len(known)} texts of the test split, {len(unknown)} of {out_of_scope.name}")
    print("| answer of | mean confidence, in scope | out of scope | AUROC |\n|---|---|---|---|")
    answers = {f"exit {k + 1}": (known[:, k], unknown[:, k]) for k in range(known.shape[1])}
    for point in bundle.calibration.operating_points:
        answers[f"`{point}`"] = answered(bundle, point, known), answered(bundle, point, unknown)
    for name, (ours, theirs) in answers.items():
        print(f"| {name} | {ours.mean():.3f} | {theirs.mean():.3f} | {auroc(ours, theirs):.3f} |")


if __name__ == "__main__":
    typer.run(main)
