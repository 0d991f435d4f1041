"""Child processes import the modules that this process does."""

import os
import sys


def import_variables() -> dict[str, str]:
    """Environment variables with which Python imports from where this process does.

    Without them `python -m` looks in the working directory first, where any file may have the name
    of a module.
    """
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
