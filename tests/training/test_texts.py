"""Texts and rows of numbers from a table to a bundle: the same road as images."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris
from tokenizers import Tokenizer

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.errors import UserError
from models.bundle.runner import SegmentRunner
from models.bundle.tensor_input import RowTensor, TensorInput
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput
from models.nets.multi_exit import NetError
from tests.training.runs import CPU
from training import checkpoint, cli, loop, tokenizing
from training.checkpoint import CheckpointError
from training.config import RECIPES, TrainConfig
from training.data import DataError
from training.data.numbers import MAX_NAMED, NumberSource, columns_of, target_of
from training.data.records import Records
from training.data.texts import similar_lengths
from training.exporting.export import export
from training.run import BEST, Run
from training.run_data import open_data

WORDS = {"money": ("balance", "bank", "card"), "music": ("song", "play", "band")}
FILLING = ("what", "is", "my", "the", "a", "please", "now", "show", "me", "and")


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")


TWO_EXITS = """
from models.nets.text import TextConfig, text_encoder

def net(shape, num_classes):
    return text_encoder(TextConfig(blocks=(1, 1), width=48, heads=3, pairs=256), shape, num_classes)
"""


def write_texts(directory: Path) -> None:
    """Texts of 2 to 12 words, one of which says what they are about."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 120), ("test", 20), ("validation", 40)):
        rows = []
        for row in range(number):
            label = tuple(WORDS)[row % 2]
            words = generator.choice(FILLING, generator.integers(1, 12)).tolist()
            words.insert(int(generator.integers(len(words))), str(generator.choice(WORDS[label])))
            rows.append({"text": " ".join(words), "label": label})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{split}.jsonl").write_text(lines)


def config_of(data: Path, net: str, recipe: str, **changes: object) -> TrainConfig:
    values = {"data": str(data), "net": net} | RECIPES[recipe] | changes
    return TrainConfig.model_validate(values)


@pytest.fixture(scope="module")
def words_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("words")
    write_texts(data)
    source = tmp_path_factory.mktemp("source") / "two_exits.py"
    source.write_text(TWO_EXITS)
    config = config_of(data, f"{source}:net", "text", epochs=20, batch_size=20, vocabulary=100)
    loop.train(config, data / "run", lambda _: None)
    return data / "run"


@pytest.fixture(scope="module")
def words_bundle(words_run: Path) -> Bundle:
    return load_bundle(export(words_run, "words", 1, words_run.parent / "zoo"))


def test_a_run_on_texts_learns_a_tokenizer_and_keeps_it(words_run: Path) -> None:
    data = open_data(config_of(words_run.parent, "text-tiny", "text"), words_run, is_new=False)
    known = Tokenizer.from_file(str(words_run / "tokenizer.json")).get_vocab()
    assert {"balance", "song", "[PAD]", "[UNK]"} <= known.keys()
    assert (known["[PAD]"], known["[UNK]"]) == (0, 1)
    assert data.tokenizer == (words_run / "tokenizer.json").read_text()
    assert len(data.splits.train) == 120
    assert data.splits.calibration.min() >= 120  # the validation split's
    assert len(data.splits.calibration) == 40


def test_what_was_found_is_said_before_a_network_is_refused(tmp_path: Path) -> None:
    """It says why they are texts."""
    write_texts(tmp_path)
    said: list[str] = []
    with pytest.raises(NetError, match=r"^mlp is no network for texts; there are text-tiny, "):
        loop.train(config_of(tmp_path, "mlp", "text"), tmp_path / "run", said.append)
    assert "texts are column 'text', labels are column 'label'" in said[0]


def test_texts_of_one_token_have_a_length_that_can_be_exported() -> None:
    words = ["yes", "no"] * 5
    tokenizer = tokenizing.learned(words, 100)
    assert tokenizing.target_of(tokenizer, words, None, None).length_buckets == (4,)


def test_a_run_that_never_saved_leaves_no_tokenizer_to_the_next(
    words_run: Path, tmp_path: Path
) -> None:
    config = config_of(words_run.parent, "text-tiny", "text", vocabulary=100)
    open_data(config, tmp_path, is_new=True).keep(tmp_path)
    kept = (tmp_path / "tokenizer.json").read_text()
    other = config.model_copy(update={"vocabulary": 30})
    assert open_data(config, tmp_path, is_new=True).tokenizer == kept
    assert open_data(other, tmp_path, is_new=True).tokenizer != kept
    assert open_data(other, tmp_path, is_new=False).tokenizer == kept


@pytest.mark.parametrize("vocabulary", [40, 100])
def test_equal_texts_give_equal_tokenizers(vocabulary: int) -> None:
    """Also in the order of other texts: only how often words come counts."""
    generator = np.random.default_rng(1)
    words = [*FILLING, *WORDS["money"], *WORDS["music"]]
    texts = [" ".join(generator.choice(words, 6)) for _ in range(50)]
    first, *others = (tokenizing.learned(t, vocabulary) for t in (texts, texts, texts[::-1]))
    assert others == [first, first]
    tokenizer = Tokenizer.from_str(first)
    assert tokenizer.get_vocab_size() <= vocabulary
    assert tokenizer.encode("Bank ##a [UNK]").tokens[-1] == "[UNK]"
    assert "##a" not in tokenizer.encode("bank ##a").tokens  # no token of its own


def test_a_bundle_of_texts_answers_as_its_report_says(words_bundle: Bundle) -> None:
    takes = words_bundle.manifest.input
    assert isinstance(takes, TextInput)
    assert takes.length_buckets[-1] == 16
    assert words_bundle.calibration.num_rows == 40
    report = json.loads((words_bundle.path / "report.json").read_text())
    assert report["exits"][-1]["top1"] > 0.9
    longest = words_bundle.manifest.segments[0].macs
    assert 0 < report["exits"][0]["macs"] < longest + words_bundle.manifest.exit_heads[0].macs
    reader = TextReader(words_bundle.tokenizer, takes)
    (text,) = reader.read(["What is my BALANCE, please?"])
    manifest = words_bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, words_bundle.graphs)
    for logits in runner.run(reader.arrays([text], text.length)):
        assert manifest.labels[int(logits.argmax())] == "money"


def test_a_bundle_of_texts_is_evaluated_on_a_table(
    words_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.evaluate(words_bundle.path, str(words_bundle.path.parents[2]), None)
    assert "words version 1 on " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has no texts$"):
        cli.evaluate(words_bundle.path, "digits", None)


def test_a_run_on_texts_is_taught_by_one_with_the_same_tokenizer(
    words_run: Path, tmp_path: Path
) -> None:
    settings = {"batch_size": 20, "vocabulary": 100, "teacher": str(words_run)}
    config = config_of(words_run.parent, "text-tiny", "text", **settings)
    student = Run(config, tmp_path, CPU)
    (part,) = student.feed.parts(student.feed.order(), 0, 0)
    assert student.teacher is not None
    answers = student.teacher.logits(part.inputs).argmax(dim=1)
    assert (answers == part.labels).float().mean() >= 0.9


OTHER_TOKENS = "^{run} makes other inputs of the same rows: "


@pytest.mark.parametrize(
    ("use", "settings", "complaint"),
    [
        ("teacher", {"vocabulary": 60}, OTHER_TOKENS),
        ("start_from", {"vocabulary": 60}, OTHER_TOKENS),
        (
            "teacher",
            {"max_tokens": 32},
            "^{run} cuts texts at 16 tokens, not at 32: --set max_tokens=16$",
        ),
        (
            "start_from",
            {"max_tokens": 32},
            r"^the weights of {run} do not fit: its network was built for tokens x length of "
            r"(\d+) x 16, this one for \1 x 32$",
        ),
    ],
)
def test_an_earlier_run_on_texts_has_the_same_tokens_and_lengths(
    use: str, settings: dict[str, object], complaint: str, words_run: Path, tmp_path: Path
) -> None:
    net = checkpoint.load(words_run / BEST).config.net
    config = config_of(words_run.parent, net, "text", batch_size=20, vocabulary=100)
    config = config.model_copy(update={use: str(words_run)} | settings)
    with pytest.raises(CheckpointError, match=complaint.format(run=re.escape(str(words_run)))):
        Run(config, tmp_path, CPU)


def test_a_run_starts_from_one_with_the_same_tokenizer_alone(
    words_run: Path, tmp_path: Path
) -> None:
    """Another one of as many tokens would fit the weights."""
    saved = checkpoint.load(words_run / BEST)
    config = config_of(words_run.parent, saved.config.net, "text", batch_size=20, vocabulary=100)
    run = Run(config.model_copy(update={"start_from": str(words_run)}), tmp_path, CPU)
    assert all(torch.equal(run.net.state_dict()[n], value) for n, value in saved.weights.items())
    shutil.copytree(words_run, tmp_path / "other")
    other = replace(saved, tokenizer=saved.tokenizer.replace('"balance"', '"balancing"'))
    checkpoint.save(other, tmp_path / "other" / BEST)
    with pytest.raises(CheckpointError, match="makes other inputs of the same rows"):
        Run(config.model_copy(update={"start_from": str(tmp_path / "other")}), tmp_path, CPU)


def test_batches_are_of_similar_lengths_and_miss_no_text() -> None:
    torch.manual_seed(0)
    lengths = np.random.default_rng(0).integers(1, 50, 1003)
    order = similar_lengths(torch.randperm(1003), lengths, 10)
    assert sorted(order.tolist()) == list(range(1003))
    batches = lengths[order[:1000].numpy()].reshape(100, 10)
    assert np.ptp(batches, axis=1).mean() < 5
    assert np.corrcoef(np.arange(100), batches.mean(axis=1))[0, 1] < 0.3


def test_texts_without_a_token_are_refused(words_run: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        lines = (words_run.parent / f"{split}.jsonl").read_text()
        row = json.dumps({"text": "\u0301", "label": "music"})
        (tmp_path / f"{split}.jsonl").write_text(f"{lines}{row}\n")
    config = config_of(tmp_path, "text-tiny", "text", calibration_per_class=2)
    with pytest.raises(DataError, match=r"1 texts of .* have no token: rows 120"):
        Run(config, tmp_path, CPU, lambda _: None).feed.order()


def test_options_for_images_are_refused_for_texts(words_run: Path, tmp_path: Path) -> None:
    changes = {"cutout": 4, "mixing": "mixup", "image_size": 8}
    config = config_of(words_run.parent, "text-tiny", "text", batch_size=20, **changes)
    with pytest.raises(
        DataError, match=r"train split .* has no images: leave out cutout, mixing, image_size$"
    ):
        Run(config, tmp_path, CPU)


def test_a_test_text_without_a_token_is_refused_before_the_first_epoch(
    words_run: Path, tmp_path: Path
) -> None:
    shutil.copy(words_run.parent / "train.jsonl", tmp_path)
    row = json.dumps({"text": "\u0301", "label": "music"})
    (tmp_path / "test.jsonl").write_text(f"{row}\n")
    config = config_of(tmp_path, "text-tiny", "text", epochs=1, batch_size=20)
    with pytest.raises(DataError, match=r"^1 texts of the test split .* have no token: rows 0$"):
        loop.train(config, tmp_path / "run", lambda _: None, is_rehearsed=True)
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.fixture(scope="module")
def iris_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tmp_path, iris = tmp_path_factory.mktemp("iris"), load_iris()
    header = "sepal length,sepal width,petal length,petal width,species\n"
    rows = zip(iris.data.tolist(), iris.target_names[iris.target], strict=True)
    lines = "".join(f"{','.join(map(str, row))},{name}\n" for row, name in rows)
    (tmp_path / "iris.csv").write_text(header + lines)
    config = config_of(
        tmp_path / "iris.csv", "mlp", "numbers", epochs=15, batch_size=8, calibration_share=0.3
    )
    loop.train(config, tmp_path / "run", lambda _: None, is_rehearsed=True)
    return load_bundle(export(tmp_path / "run", "iris", 1, tmp_path / "zoo"))


def test_rows_of_numbers_become_a_bundle_too(iris_bundle: Bundle) -> None:
    bundle = iris_bundle
    names = ("sepal length", "sepal width", "petal length", "petal width")
    tensors = tuple(RowTensor(name=name, dtype="float32", shape=()) for name in names)
    assert bundle.manifest.input == TensorInput(tensors=tensors)
    assert bundle.manifest.labels == ("setosa", "versicolor", "virginica")
    report = json.loads((bundle.path / "report.json").read_text())
    assert report["num_rows"] == 30
    assert report["exits"][-1]["top1"] > 0.85


def test_a_table_is_evaluated_by_the_names_of_its_columns(
    iris_bundle: Bundle, tmp_path: Path
) -> None:
    """In another order and with others beside them; one that is missing is named."""
    path = iris_bundle.path.parents[2] / "iris.csv"
    table = pd.read_csv(path)
    mixed = table[table.columns[::-1]].assign(id=range(150), note="a flower it was")
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    plain, other = (
        cli.test_source(iris_bundle, str(file), "refuse") for file in (path, tmp_path / "mixed.csv")
    )
    rows = np.arange(len(plain.labels))
    assert all(map(torch.equal, plain.take(rows).inputs, other.take(rows).inputs))
    assert plain.labels.tolist() == other.labels.tolist()
    mixed.drop(columns="sepal width").to_csv(tmp_path / "mixed.csv", index=False)
    with pytest.raises(DataError, match=r"mixed.csv' has no column 'sepal width' among species, "):
        cli.test_source(iris_bundle, str(tmp_path / "mixed.csv"), "refuse")


@pytest.mark.parametrize("number", [3, 40])
def test_a_split_with_other_numbers_than_the_network_takes_is_refused(number: int) -> None:
    """Where many columns are one tensor, their number is all that can be compared."""
    some, more = (
        {f"c{k}": np.full(4, k, np.float32) for k in range(columns)}
        for columns in (number, number + 1)
    )
    rows = Records("the test split", ("yes", "no"), np.zeros(4, np.int64), values=some)
    target = target_of(some)
    assert columns_of(target) == (() if number > MAX_NAMED else tuple(some))
    assert NumberSource(rows, target).take(np.arange(4)).inputs[-1].max() == number - 1
    with pytest.raises(DataError, match="the test split has other numbers than the network takes"):
        NumberSource(replace(rows, values=more), target)
