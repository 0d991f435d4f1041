"""Which directories of a zoo are bundles, and which are skipped for their names."""

from pathlib import Path

import pytest

from models.bundle.bundle import BundleError
from server.zoo.directory import find_bundles, skipped


def test_bundles_are_found_and_strange_names_are_told(tmp_path: Path) -> None:
    for name in ("digits/1", "digits/v2", "digits/.new-3", "my model/1", ".git/1", "digits/01"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "README.md").write_text("a file is no directory")
    assert list(find_bundles(tmp_path)) == [("digits", 1)]
    told = [str(path.relative_to(tmp_path)) for path in skipped(tmp_path)]
    assert told == ["my model", "digits/01", "digits/v2"]


def test_a_zoo_that_is_not_there_has_nothing_to_skip(tmp_path: Path) -> None:
    assert skipped(tmp_path / "none") == []
    with pytest.raises(BundleError, match="cannot be read"):
        find_bundles(tmp_path / "none")
