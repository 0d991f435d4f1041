"""Data, network, losses, loop, checkpoint, calibration, export, evaluation."""

import os

# large tensors in huge pages: fewer page faults in every step on a CPU
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
