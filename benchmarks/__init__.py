"""What measures the promises of the documentation, each as one command.

Beside rivals (`benchmarks.rivals`), all in one run on the same cores:

- `python -m benchmarks.serving BUNDLE DATA`: requests per second and p99 in a closed loop.
- `python -m benchmarks.overload BUNDLE DATA`: right answers in time at 0.2 to 5 times what a plain
  server carries; each rival with its best limit.
- `python -m benchmarks.large`: a network of 224 pixels beside a bare loop; probes while saturated.

A closed loop is best asked by `wrk` (Debian package `wrk`), which takes less of the cores than the
generator in `benchmarks.load`.
"""
