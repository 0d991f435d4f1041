import sys
from pathlib import Path

import pytest

from training.paper.workers import Workers


def test_a_file_in_the_working_directory_is_no_module_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", "import training.origin"]
    assert Workers(1).run(command, tmp_path / "log") == 0
