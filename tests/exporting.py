"""Exports of many small networks in one process."""

from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def _operators_read_once() -> Iterator[None]:
    """The exporter reads its table of operators for every graph: a quarter of the time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: PLC0415 - slow

    with pytest.MonkeyPatch.context() as patch:
        once = cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(once))
        yield
