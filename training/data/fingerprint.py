"""A run's data in a few hashes, kept in the run and compared before its rows are used again."""

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from training.data.errors import DataError, listed
from training.data.records import Records
from training.data.rows import Rows

FILE = "data.json"


class ClassRows(BaseModel):
    """The number of a class's rows, and a hash of all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: int
    sha256: str


Classes = dict[str, ClassRows]


class Fingerprint(BaseModel):
    """Both splits by class: the rows' places, file names and contents, in one hash for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Classes
    test: Classes

    @classmethod
    def of(cls, train: Rows | Records, test: Rows | Records) -> "Fingerprint":
        return cls(train=class_rows(train), test=class_rows(test))

    def refuse_change(self, now: "Fingerprint", run: Path) -> None:
        """Raises DataError naming what differs now from what the run was made with."""
        differing = [
            *differences("train", self.train, now.train),
            *differences("test", self.test, now.test),
        ]
        if differing:
            raise DataError(
                f"the data are not those that {run} was made with: {listed(differing)}; its splits "
                "are rows of the old data: bring them back, or start a new run"
            )


def class_rows(rows: Rows | Records) -> Classes:
    identities, labels = rows.identities(), rows.labels
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(rows.names)))
    classes = {}
    for name, index in zip(rows.names, np.split(order, ends[:-1]), strict=True):
        found = sha256(index.astype("<i8").tobytes())
        for identity in identities[index].tolist():
            found.update(identity if isinstance(identity, bytes) else b"%d" % identity)
            found.update(b"\0")
        classes[name] = ClassRows(num_rows=len(index), sha256=found.hexdigest())
    return classes


def differences(split: str, then: Classes, now: Classes) -> list[str]:
    """Every class that is new, gone or has other rows."""
    found = [f"class {name!r} of {split} is gone" for name in then.keys() - now.keys()]
    found += [f"class {name!r} of {split} is new" for name in now.keys() - then.keys()]
    for name in then.keys() & now.keys():
        before, after = then[name].num_rows, now[name].num_rows
        if before != after:
            found.append(f"class {name!r} of {split} has {after} rows, not {before}")
    if found:
        return sorted(found)
    changed = sorted(name for name in then if then[name] != now[name])
    return [f"class {name!r} of {split} has other rows" for name in changed]


def keep(fingerprint: Fingerprint, run: Path) -> None:
    """Writes the run's fingerprint, aside first."""
    aside = run / f".{FILE}.{os.getpid()}"
    aside.write_text(fingerprint.model_dump_json(indent=1) + "\n")
    os.replace(aside, run / FILE)


def kept(run: Path) -> Fingerprint | None:
    """The fingerprint the run keeps, if it has one yet."""
    try:
        return Fingerprint.model_validate_json((run / FILE).read_text())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{run / FILE} is damaged") from error
