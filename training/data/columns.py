"""Which columns of a table hold texts or numbers, and which labels: named, or guessed and said."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from datasets import ClassLabel, Dataset, Features, Value

from training.data.errors import DataError, listed
from training.data.tables import LABEL_COLUMNS, is_bytes_type, is_image_type, label_column

Kind = Literal["image", "text", "tensor"]

TEXT_COLUMNS = (
    *("text", "sentence", "utterance", "question", "query", "content", "review", "message"),
    *("tweet", "title", "body", "description"),
)
NUM_LOOKED_AT = 200
"""Rows that tell how long the strings of a column are."""
TEXT_WORDS = 2.0
"""Mean words of a column of strings from which it is taken for one of texts."""
NUMBERS = ("int", "uint", "float", "double", "bool")
INDEX = re.compile(r"Unnamed: \d+(\.\d+)?|__index_level_\d+__")
"""Columns that number or name the rows: what pandas calls one without a header, and parquet's."""


@dataclass(frozen=True)
class Wanted:
    """Columns as a person names them; None and empty are guessed."""

    text: str | None = None
    label: str | None = None
    numbers: tuple[str, ...] = ()


def wanted_columns(text: object, label: object, numbers: object) -> Wanted:
    """From settings: names of columns, those of numbers separated by commas, or None."""
    names = tuple(name.strip() for name in str(numbers).split(",")) if numbers else ()
    return Wanted(str(text) if text else None, str(label) if label else None, names)


@dataclass(frozen=True)
class Columns:
    """Columns to use: one of texts or some of numbers, and one of labels. `every` names all."""

    kind: Kind
    inputs: tuple[str, ...]
    label: str
    every: tuple[str, ...]

    def __str__(self) -> str:
        what = "texts are" if self.kind == "text" else "numbers are"
        shown = ", ".join(map(repr, self.inputs[:8]))
        more = f" and {len(self.inputs) - 8} more" if len(self.inputs) > 8 else ""
        others = [repr(name) for name in self.every if name not in (*self.inputs, self.label)]
        rest = f"; {listed(others)} left out" if others else ""
        return f"{what} column {shown}{more}, labels are column {self.label!r}{rest}"


def is_of_images(features: Features) -> bool:
    return any(is_image_type(kind) or is_bytes_type(kind) for kind in features.values())


def chosen_columns(table: Dataset, wanted: Wanted, title: str) -> Columns:
    """The columns that are wanted, and a guess at the others; raises DataError where there is none.

    Texts are a column of a usual name, or else the strings with most words; numbers are all columns
    of numbers or of lists of numbers. A row's number or name is none of these unless it is named.
    """
    features, every = table.features, tuple(table.features)
    named = [name for name in (wanted.text, wanted.label, *wanted.numbers) if name is not None]
    for name in named:
        if name not in features:
            raise DataError(f"{title} has no column {name!r} among {', '.join(features)}")
    if wanted.text is not None and wanted.numbers:
        raise DataError("text_column and number_columns exclude each other")
    index = [name for name in every if INDEX.fullmatch(name) and name not in named]
    table = table.remove_columns(index)
    features = table.features
    text = wanted.text
    if text is None and not wanted.numbers:
        text = text_column(table, wanted.label)
    if text is not None:
        refuse_others(features, [text], is_string, "texts", title)
        return Columns("text", (text,), wanted.label or label_of(features, [text], title), every)
    label = wanted.label or label_of(features, wanted.numbers, title)
    numbers = wanted.numbers or tuple(
        name for name, kind in features.items() if name != label and is_number(kind)
    )
    if not numbers:
        raise DataError(
            f"{title} has neither images, texts nor numbers among {', '.join(features)}; name "
            "them: --set text_column=NAME or --set number_columns=NAME,NAME"
        )
    refuse_others(features, numbers, is_number, "numbers", title)
    return Columns("tensor", numbers, label, every)


def text_column(table: Dataset, label: str | None) -> str | None:
    strings = [n for n, kind in table.features.items() if is_string(kind) and n != label]
    lower: dict[str, str] = {name.lower(): name for name in reversed(strings)}
    for name in TEXT_COLUMNS:
        if name in lower:
            return lower[name]
    some = table.select(range(min(NUM_LOOKED_AT, len(table))))
    words = {name: mean(len((text or "").split()) for text in some[name]) for name in strings}
    longest: str | None = max(words, key=lambda name: words[name], default=None)
    return longest if longest is not None and words[longest] >= TEXT_WORDS else None


def label_of(features: Features, used: Sequence[str], title: str) -> str:
    """The column of labels, of those left: where its name says nothing, the only one of strings."""
    left = Features({name: kind for name, kind in features.items() if name not in used})
    if not left:
        raise DataError(f"{title} has no column of labels beside {listed(map(repr, used))}")
    named = [n for n, kind in left.items() if isinstance(kind, ClassLabel) or n in LABEL_COLUMNS]
    strings = [str(name) for name, kind in left.items() if is_string(kind)]
    return strings[0] if len(strings) == 1 and not named else label_column(left, title)


def refuse_others(
    features: Features, names: Sequence[str], fits: Callable[[object], bool], what: str, title: str
) -> None:
    """Raises DataError where a named column is of another type."""
    for name in names:
        if not fits(features[name]):
            raise DataError(f"column {name!r} of {title} has no {what}: it is {features[name]}")


def is_string(kind: object) -> bool:
    return isinstance(kind, Value) and kind.dtype in ("string", "large_string")


def is_number(kind: object) -> bool:
    """Numbers, or lists of them."""
    inner = getattr(kind, "feature", kind)
    return isinstance(inner, Value) and inner.dtype.startswith(NUMBERS)
