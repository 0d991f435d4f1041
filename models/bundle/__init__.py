"""The contract between training and serving."""

import os

# read when onnxruntime is imported, which otherwise stores a device id and collects events
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# read when a text is tokenized: pools of threads of its own would fight over the cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
