"""Servers that a user would write today, each in processes of its own: the rivals of Offramp.

- *naive exits*: FastAPI around the bundle's own segments, run one image or text at a time through
  the thresholds of `balanced` (`exits.py`, `web.py`).
- *plain*: the same lines around the uncut network, of int8 or float32 weights, or around the ONNX
  file that a network was attached from (`uncut.py`, `web.py`).
- *mosec*: naive exits behind mosec's Rust front, in batches where batches win (`batches.py`).

Each has a worker of one thread per core, decodes images and tokenizes texts as the server does, and
pads no text. A rival may have a limit, beyond which it refuses: uvicorn's `--limit-concurrency`, in
each worker, or mosec's `--capacity`. It may have a budget: then it refuses a request whose time is
up before it starts on it, by the client's `X-Request-Start`, which costs it less than to answer;
mosec has `--timeout`.
"""
