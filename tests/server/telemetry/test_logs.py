"""Log lines are JSON, and readable where standard error is a terminal."""

import json
import logging
import os
import pty
import re
import subprocess
import sys

from benchmarks.process import ROOT
from server.telemetry.logs import JsonLines, ReadableLines

SCRIPT = """
import logging
from server.telemetry.logs import configure_logs, log_request
configure_logs(access=True)
logging.getLogger("offramp").warning("refused: %s", "a\\nb\\x1b[31m")
log_request(1.0, "POST", "/v1/classify", 200, 0.0021, [3], "mine")
"""


def read(terminal: int) -> str:
    """Everything that was written to a terminal; Linux fails the read at its end."""
    said = b""
    try:
        while part := os.read(terminal, 4096):
            said += part
    except OSError:
        pass
    return said.decode()


def test_a_terminal_gets_readable_lines_and_a_pipe_json() -> None:
    terminal, stderr = pty.openpty()
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, stderr=stderr, check=True)
    os.close(stderr)
    refused, request = read(terminal).splitlines()
    os.close(terminal)
    time = r"\d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(rf"{time} warning refused: a\\nb\\x1b\[31m", refused)
    fields = r"request_id=mine method=POST route=/v1/classify code=200 duration_ms=2.1 exits=\[3\]"
    assert re.fullmatch(rf"{time} info    request {fields}", request)

    piped = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True
    )
    first, second = [json.loads(line) for line in piped.stderr.splitlines()]
    assert (first["level"], first["message"]) == ("warning", "refused: a\nb\x1b[31m")
    assert (second["request_id"], second["exits"]) == ("mine", [3])


def test_a_file_name_of_other_bytes_is_logged() -> None:
    name = os.fsdecode(b"caf\xe9")
    record = logging.LogRecord("n", logging.WARNING, "", 0, "skipped: %s", (name,), None)
    assert json.loads(JsonLines().format(record))["message"] == r"skipped: caf\udce9"
    assert ReadableLines().format(record).endswith(r"skipped: caf\udce9")


def test_a_readable_line_has_the_traceback() -> None:
    try:
        raise RuntimeError("made to fail")
    except RuntimeError:
        record = logging.LogRecord("n", logging.ERROR, "", 0, "unexpected", (), sys.exc_info())
    first, *rest = ReadableLines().format(record).splitlines()
    assert first.endswith("error   unexpected")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "RuntimeError: made to fail"
