# Any Debian-based image with python3 and python3-venv will do.
ARG BASE=python:3.11.15-slim-bookworm
# requirements/traces.txt for a server that can send traces
ARG REQUIREMENTS=requirements/serve.txt

FROM ${BASE} AS build
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/venv
ARG REQUIREMENTS
COPY ${REQUIREMENTS} requirements.txt
RUN pip install --require-hashes -r requirements.txt
COPY pyproject.toml README.md offramp.py ./
COPY models/ models/
COPY commands/ commands/
COPY load/ load/
COPY server/ server/
RUN pip install --no-deps . && pip uninstall --yes pip setuptools

FROM ${BASE}
# Same path as in the first stage: a venv's scripts name their interpreter by its absolute path.
COPY --from=build /opt/venv /opt/venv
COPY models/zoo /zoo
# onnxruntime sends usage data home unless told not to. The user has no home to keep costs in.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    OFFRAMP_CACHE=/tmp/offramp \
    OFFRAMP_ZOO=/zoo \
    OFFRAMP_HOST=0.0.0.0 \
    OFFRAMP_PORT=8000
# By number, so that an orchestrator can tell it is not root without reading /etc/passwd.
USER 10001:10001
EXPOSE 8000
# The server listens only once its models are loaded and measured, hence the start period.
HEALTHCHECK --interval=5s --timeout=3s --start-period=2m CMD ["python3", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"OFFRAMP_PORT\"]}/readyz')"]
CMD ["offramp", "serve"]
