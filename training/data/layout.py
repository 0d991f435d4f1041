"""Which rows a split of a data source has: digits, folders, parquet files, or a hub name."""

import re
from dataclasses import replace
from pathlib import Path

import datasets
from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from training.data.errors import DataError, NoSuchSplit, reason
from training.data.folders import SPLIT_NAMES, class_names, folder_rows, split_folder
from training.data.rows import Rows, SplitName, digits, part_of_file
from training.data.tables import (
    TableRows,
    load_parquet,
    parquet_files,
    table_rows,
)

HUB_TIMEOUT_S = 5.0
FILE_SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
Names = tuple[str, ...]


def open_rows(source: str, split: SplitName, names: Names | None = None) -> Rows:
    """Finds a split; raises NoSuchSplit where there is none, DataError where it is faulty.

    Labels are numbered as in `names`; without them as the training split's are.
    """
    if source == "digits":
        return digits_rows(split, names)
    path = Path(source).expanduser()
    if path.is_dir():
        return directory_rows(path, split, names)
    if path.is_file():
        return file_rows(path, split, names)
    return hub_rows(source, split, names)


def digits_rows(split: SplitName, names: Names | None) -> Rows:
    rows = digits(split)
    if names not in (None, rows.names):
        raise DataError("the labels of digits are not those of the model")
    return rows


def directory_rows(directory: Path, split: SplitName, names: Names | None) -> Rows:
    """A split is what lies under DIR/SPLIT, or in parquet files named for it; nothing else."""
    if files := parquet_files(directory, split):
        title = f"the {split} split of {str(directory)!r}"
        table = load_parquet(files, title)
        if names is None and split == "test" and parquet_files(directory, "train"):
            names = directory_rows(directory, "train", None).names
        return table_rows(table, title, names)
    folder = split_folder(directory, split)
    if folder is None:
        wanted = " or ".join(SPLIT_NAMES[split])
        raise NoSuchSplit(
            f"cannot load the {split} split of {str(directory)!r}: it has neither a folder "
            f"{wanted} nor parquet files named so"
        )
    if names is None and split == "test" and (train := split_folder(directory, "train")):
        names = class_names(train)
    return folder_rows(folder, names)


def file_rows(path: Path, split: SplitName, names: Names | None) -> TableRows:
    """A fixed fifth of every class for testing, the rest for training."""
    title = f"the {split} split of {str(path)!r}"
    rows = table_rows(load_parquet([path], title), title, names)
    index = part_of_file(rows.labels, rows.names, f"{str(path)!r}", split)
    return replace(rows, labels=rows.labels[index], index=index)


def hub_rows(source: str, split: SplitName, names: Names | None) -> TableRows:
    """A split of a hub data set."""
    title = f"the {split} split of {source!r}"
    found = hub_splits(source, title)
    for name in SPLIT_NAMES[split]:
        if name in found:
            if names is None and split == "test" and "train" in found:
                names = table_rows(found["train"], title, None).names
            return table_rows(found[name], title, names)
    raise NoSuchSplit(f"cannot load {title}: it has the splits {', '.join(found)}")


def hub_splits(source: str, title: str) -> DatasetDict:
    """Every split of a hub data set; the hub is not asked for what looks like a path."""
    path = Path(source)
    looks_near = ("/" in source and path.parent.is_dir()) or path.suffix in FILE_SUFFIXES
    if looks_near or source.startswith(".") or not HUB_NAME.fullmatch(source):
        raise DataError(f"cannot load {title}: there is no such file or directory")
    return load_from_hub(source, title)


def load_from_hub(source: str, title: str) -> DatasetDict:
    """Every split of a hub data set: the copy on this machine, where the hub does not answer."""
    before = datasets.config.HF_HUB_OFFLINE
    try:
        HfApi().dataset_info(source, timeout=HUB_TIMEOUT_S)
    except RepositoryNotFoundError as error:
        raise DataError(f"cannot load {title}: {reason(error)}") from error
    except Exception:  # the hub's client raises errors of no common base
        datasets.config.HF_HUB_OFFLINE = True
    try:
        return load_dataset(source)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"cannot load {title}: {reason(error)}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before
