"""The Open Inference Protocol (KServe V2) over REST, as Triton's clients speak it."""
