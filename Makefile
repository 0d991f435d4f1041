# `make serve` needs Python 3.11 alone and installs no torch; `make test` installs the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SERVE_ENV := .venv/serve
DEV_ENV := .venv/dev
TORCH := torch==2.13.0
SETUPTOOLS := setuptools==84.2.1
RUN := $(DEV_ENV)/bin
DATA ?= data/cifar100

# the monitoring tests run a real Prometheus; without one they are skipped with a reason
INSTALL_PROMETHEUS := command -v promtool >/dev/null || ! command -v apt-get >/dev/null \
	|| test "$$(id -u)" != 0 || (apt-get -qq update && apt-get -qq install -y prometheus)
# the page's tests run a real Chromium, in the same way
INSTALL_CHROMIUM := command -v chromium >/dev/null || ! command -v apt-get >/dev/null \
	|| test "$$(id -u)" != 0 || (apt-get -qq update && apt-get -qq install -y chromium)

QUICK := tests/test_docs.py tests/models/bundle tests/models/nets/test_multi_exit.py \
	tests/training/test_losses.py tests/load/test_bodies.py tests/load/test_target.py tests/server/test_*.py \
	tests/server/engine tests/server/planning tests/server/telemetry tests/server/zoo \
	tests/server/v1 tests/server/v2 tests/e2e/test_serving.py

.PHONY: serve test quick check faults format bench fuzz soak dashboards proto settings lock clean

serve: $(SERVE_ENV)/ready
	$(SERVE_ENV)/bin/offramp serve

# every test: two files at a time, then those that need all cores for themselves
test: $(DEV_ENV)/ready
	$(INSTALL_PROMETHEUS)
	$(INSTALL_CHROMIUM)
	OMP_NUM_THREADS=1 $(RUN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(RUN)/pytest -m alone $$(grep -rl 'mark\.alone' tests --include='test_*.py')

# the tests that cover most in under two minutes
quick: $(DEV_ENV)/ready
	OMP_NUM_THREADS=1 $(RUN)/pytest -n 2 --dist loadfile $(QUICK)

# every situation of docs/faults.md that names its tests
faults: $(DEV_ENV)/ready
	$(RUN)/pytest tests/test_faults.py \
		$$(grep -oE '[a-z0-9_/]+\.py::test_[a-z0-9_]+' docs/faults.md | sort -u | sed 's|^|tests/|')

check: $(DEV_ENV)/ready
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

bench: $(DEV_ENV)/ready
	$(RUN)/python -m benchmarks.budget_sweep models/zoo/cifar100-msdnet/7 $(DATA)

fuzz: $(DEV_ENV)/ready
	$(RUN)/python -m benchmarks.fuzz requests models/zoo --cases 10000
	$(RUN)/python -m benchmarks.fuzz_grpc models/zoo --cases 10000
	$(RUN)/python -m benchmarks.fuzz images --cases 100000
	$(RUN)/python -m benchmarks.fuzz tensors models/zoo/cifar100-msdnet/7 --cases 100000
	$(RUN)/python -m benchmarks.fuzz texts --cases 100000

soak: $(DEV_ENV)/ready
	$(RUN)/python -m benchmarks.soak models/zoo --requests 200000

dashboards: $(DEV_ENV)/ready
	$(RUN)/python -m deploy.grafana.generate

# in a pool of its own: a program may hold Triton's client, which has messages of the same names
proto: $(DEV_ENV)/ready
	$(RUN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. server/grpc/open_inference.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' \
		server/grpc/open_inference_pb2.py

settings: $(DEV_ENV)/ready
	$(RUN)/python -m server.options > docs/settings.md

format: $(DEV_ENV)/ready
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

lock: $(DEV_ENV)/ready
	$(RUN)/pip-compile -q $(LOCK_OPTIONS) --generate-hashes -o requirements/serve.txt pyproject.toml
	$(RUN)/pip-compile -q $(LOCK_OPTIONS) --generate-hashes --extra traces -c requirements/serve.txt \
		-o requirements/traces.txt pyproject.toml
	$(RUN)/pip-compile -q $(LOCK_OPTIONS) --extra train --extra example --extra dev --extra traces \
		-c requirements/serve.txt \
		--unsafe-package torch --unsafe-package pip --unsafe-package setuptools \
		-o requirements/dev.txt pyproject.toml
	$(RUN)/pip-compile -q $(LOCK_OPTIONS) --extra ray -c requirements/dev.txt \
		--unsafe-package pip --unsafe-package setuptools -o requirements/ray.txt pyproject.toml

clean:
	rm -rf .venv

LOCK_OPTIONS := --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

$(SERVE_ENV)/ready: requirements/serve.txt
	@echo "Installing what serving needs into $(SERVE_ENV): once, about a minute"
	$(PYTHON) -m venv $(SERVE_ENV)
	$(SERVE_ENV)/bin/pip install -q --require-hashes -r requirements/serve.txt
	$(SERVE_ENV)/bin/pip install -q --no-deps -e .
	touch $@

$(DEV_ENV)/ready: requirements/dev.txt requirements/ray.txt
	@echo "Installing what training and tests need into $(DEV_ENV): once, several minutes"
	$(PYTHON) -m venv $(DEV_ENV)
	$(RUN)/pip install -q $(TORCH) $(SETUPTOOLS)
	$(RUN)/pip install -q -r requirements/dev.txt -r requirements/ray.txt
	$(RUN)/pip install -q --no-deps -e .
	touch $@
