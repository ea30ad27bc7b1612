# The operator and the `rz` command: no torch, no model code. docker/build.sh builds it; docs/images.md tells of it.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python3 -m venv /opt/venv
WORKDIR /src
COPY locks/operator.txt constraints.txt
# What packages are built with is pinned too: the first is for pips before 25.3, the second for those since.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY crds/rz_api crds/rz_api
COPY operator/rz_operator operator/rz_operator
COPY workers/rz_workers workers/rz_workers
# The two halves of the Kubernetes client are half of this image; without byte code they are a quarter of it smaller, for
# two or three seconds more at the start. The installer is not needed again.
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[operator]" \
 && rm -rf /opt/venv/lib/python3.11/site-packages/rz_workers \
 && find /opt/venv/lib/python3.11/site-packages/kubernetes -name __pycache__ -prune -exec rm -rf {} + \
 && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="reasonerzero operator" \
      org.opencontainers.image.description="Reconciles ReasonerZeroRun objects into pods" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
CMD ["python", "-m", "rz_operator"]
