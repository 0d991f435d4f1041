"""The memory of a server's processes: `python -m benchmarks.process_memory [ZOO]`.

Proportional set size: what processes share counts once, in parts.
"""

import re
import sys
from pathlib import Path

from benchmarks.process import ROOT, serving
from models.bundle.profile import hardware


def main(zoo: Path) -> None:
    """Prints a Markdown table of MiB, at rest, for one to four processes."""
    print(f"{zoo}, {hardware()}\n\n| processes | all, MiB | parent | each further process |")
    print("|---|---|---|---|")
    before = 0.0
    for processes in (1, 2, 3, 4):
        with serving(zoo, processes=processes) as server:
            pid = server.process.pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            own = proportional_mib(pid)
            total = own + sum(proportional_mib(int(child)) for child in children)
        more = f"{total - before:.0f}" if processes > 1 else ""
        print(f"| {processes} | {total:.0f} | {own if children else 0:.0f} | {more} |")
        before = total


def proportional_mib(pid: int) -> float:
    """The memory of a process; shared pages count in part."""
    (kib,) = re.findall(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    return int(kib) / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "models/zoo")
