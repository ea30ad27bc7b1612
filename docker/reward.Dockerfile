# The ledger and the reward service: Math-Verify, reasoning-gym's scorers and a web server, no torch. docker/build.sh builds it.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Some of reasoning-gym's packages come as source.
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends gcc g++ libc6-dev python3-dev \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
WORKDIR /src
COPY locks/reward.txt constraints.txt
# What packages are built with is pinned too: the first is for pips before 25.3, the second for those since.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY crds/rz_api crds/rz_api
COPY operator/rz_operator operator/rz_operator
COPY workers/rz_workers workers/rz_workers
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt \
      ".[reward,reasoning-gym,s3,gcs,azure]" \
 && rm -rf /opt/venv/lib/python3.11/site-packages/rz_operator \
 && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="reasonerzero reward" \
      org.opencontainers.image.description="The ledger and the reward service of a run" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    RZ_STATUS_PORT=9400
USER 65532:65532
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/healthz' % os.environ['RZ_STATUS_PORT'], timeout=9)"]
CMD ["python", "-m", "rz_workers.reward"]
