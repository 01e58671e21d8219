# syntax=docker/dockerfile:1
# The image of worker, beat, migrations and command line. No TensorFlow, no compiler, no Python package manager.
#
#   docker build -t nightread-worker .
#   docker build -t nightread-worker-cuda --build-arg REQUIREMENTS=worker-cuda .
#
# For a release, pin the base image by digest: PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# worker: runs on the CPU, and on a GPU if the host provides CUDA and cuDNN. worker-cuda: contains both.
ARG REQUIREMENTS=worker
ARG UV_VERSION=0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
RUN pip install --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /build
# Dependencies first, because they seldom change; every installed file must match a hash of the list.
COPY requirements/ requirements/
RUN uv venv /opt/nightread \
    && uv pip install --python /opt/nightread --require-hashes --requirement "requirements/${REQUIREMENTS}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY bench/ bench/
COPY cli/ cli/
COPY db/ db/
COPY exporter/ exporter/
COPY nightread/ nightread/
COPY pacs/ pacs/
COPY trainer/ trainer/
COPY web/ web/
COPY worker/ worker/
RUN uv build --wheel --out-dir dist \
    && uv pip install --python /opt/nightread --no-deps dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="nightread" \
      org.opencontainers.image.description="Scores a night's chest X-rays for pneumonia. Not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed number above those of a host's users, so that the scans' folder can be opened to this user alone.
RUN groupadd --gid 10001 nightread \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nightread \
    # A volume that is mounted here first takes this owner, so that `models import` can write to it.
    && install --directory --owner=10001 --group=10001 /models
COPY --from=build /opt/nightread /opt/nightread
# The file system may be read-only: byte code is compiled above, and only /tmp is written.
ENV PATH=/opt/nightread/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NIGHTREAD_LOG_FORMAT=json
USER 10001:10001
WORKDIR /
# SIGTERM is a warm shutdown: the worker commits what it has scored, gives the rest back and exits. Allow it longer
# than a job takes (stop_grace_period in docker-compose.yml). A worker that is killed sooner loses nothing: its lease
# expires, and another worker scores the job's remaining scans.
STOPSIGNAL SIGTERM
# Checks that the worker makes progress: that it commits while jobs wait. The restart policy restarts a dead worker,
# because it is the container's first process.
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 CMD ["nightread", "worker", "--health"]
CMD ["nightread", "worker"]
