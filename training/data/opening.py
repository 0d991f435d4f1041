"""Both splits of texts or of numbers, from whatever table holds them."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from training.data.columns import Columns, Wanted, chosen_columns, is_of_images
from training.data.errors import DataError
from training.data.folders import has_class_images, split_folder
from training.data.records import Names, Records, records
from training.data.rows import SplitName
from training.data.tables import parquet_files
from training.data.tabular import WHOLE, Tables, tables_of


@dataclass(frozen=True)
class Found:
    """Training rows, those of a validation split last, and test rows; `notes` say what they are."""

    train: Records
    test: Records
    notes: list[str]


def find_records(source: str, wanted: Wanted) -> Found | None:
    """Texts or numbers of a source; None where it holds images."""
    tables = found_tables(source, wanted, "train")
    if tables is None:
        if wanted != Wanted():
            raise DataError(f"{source!r} has no columns: it is no table")
        return None
    table = tables.read(tables.train)
    if is_for_images(table, wanted):
        if wanted.label is not None:
            raise DataError(f"{source!r} holds images: label_column is for texts and numbers")
        return None
    columns = chosen_columns(table, wanted, tables.title(tables.train))
    train = read(tables, tables.train, columns, None)
    if tables.train == WHOLE:
        notes = [described(train, str(columns)), "a fifth of every class tests"]
        return Found(train.part_of_file("train"), train.part_of_file("test"), notes)
    test = read(tables, tables.test, columns, train.names)
    notes = [described(train, str(columns)), described(test)]
    if tables.validation is not None:
        validation = read(tables, tables.validation, columns, train.names)
        train = train.followed_by(validation)
        notes.append(described(validation, "for selection and calibration only"))
    return Found(train, test, notes)


def find_test(source: str, wanted: Wanted, names: Names | None) -> Records | None:
    """The test split alone; None where the source holds images.

    Labels are numbered as in `names`; without them as the test split's are.
    """
    tables = found_tables(source, wanted, "test")
    if tables is None or is_for_images(tables.read(tables.test), wanted):
        return None
    return test_records(tables, wanted, names)


def found_tables(source: str, wanted: Wanted, split: SplitName) -> Tables | None:
    """None for image folders, also where tables lie beside them and no column of those is named."""
    path = Path(source).expanduser()
    if wanted == Wanted() and path.is_dir() and not parquet_files(path, split):
        folder = split_folder(path, split)
        if folder is not None and has_class_images(folder):
            return None
    return None if source == "digits" else tables_of(source)


def is_for_images(table: Dataset, wanted: Wanted) -> bool:
    """Whether it has images and no other inputs are named."""
    return is_of_images(table.features) and wanted.text is None and not wanted.numbers


def test_records(tables: Tables, wanted: Wanted, names: Names | None) -> Records:
    columns = chosen_columns(tables.read(tables.test), wanted, tables.title(tables.test))
    rows = read(tables, tables.test, columns, names)
    return rows.part_of_file("test") if tables.test == WHOLE else rows


def read(tables: Tables, split: str, columns: Columns, names: Names | None) -> Records:
    return records(tables.read(split, columns.label), columns, tables.title(split), names)


def described(rows: Records, note: str = "") -> str:
    number = f"{len(rows.labels)} rows of {len(rows.names)} classes"
    return f"data: {rows.title}: {number}" + (f"; {note}" if note else "")
