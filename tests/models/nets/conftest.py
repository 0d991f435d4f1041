"""Networks of these tests are exported by the dozen."""

from tests.exporting import _operators_read_once

__all__ = ["_operators_read_once"]
