#!/usr/bin/env bash
# Builds the images with buildah or docker, whichever is here, and prints their sizes.
#
#   docker/build.sh [operator] [reward] [worker] [worker-cpu]      all but worker-cpu where none is named
#
# BASE_IMAGE   what they are built on; the default needs a registry. `debian` makes a base of Debian's packages (root)
# TAG          default: the version in pyproject.toml
# PREFIX       of the names; default reasonerzero-
# TORCH_INDEX  where CPU builds of torch are, for worker-cpu
# BUILD_ARGS   more arguments for the builder, such as a volume with certificates
# ARCHIVES     a folder: also write each image to FOLDER/NAME.tar (OCI; buildah only)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BASE_IMAGE="${BASE_IMAGE:-python:3.11-slim-bookworm}"
TAG="${TAG:-$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}"
PREFIX="${PREFIX:-reasonerzero-}"
TORCH_INDEX="${TORCH_INDEX:-}"
BUILD_ARGS="${BUILD_ARGS:-}"
ARCHIVES="${ARCHIVES:-}"
read -ra names <<<"${*:-operator reward worker}"

if command -v buildah >/dev/null; then
  builder=buildah
elif command -v docker >/dev/null; then
  builder=docker
else
  echo "build.sh: found neither buildah nor docker; install one of them" >&2
  exit 1
fi
if [[ -n ${ARCHIVES} && ${builder} != buildah ]]; then
  echo "build.sh: ARCHIVES needs buildah, found docker; use docker save" >&2
  exit 1
fi

# What stands in for the default base where no registry is reached: Debian with its Python 3.11, without documentation.
debian_base() {
  if buildah inspect --type image localhost/reasonerzero-base:bookworm >/dev/null 2>&1; then return; fi
  local root container
  root="$(mktemp -d)"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "${root}/rootfs" >/dev/null
  rm -rf "${root}"/rootfs/var/cache/apt/archives/*.deb "${root}"/rootfs/var/lib/apt/lists/* \
    "${root}"/rootfs/usr/share/{doc,man,info,locale}/*
  container="$(buildah from scratch)"
  tar -C "${root}/rootfs" -cf "${root}/rootfs.tar" .
  buildah add --quiet "${container}" "${root}/rootfs.tar" / >/dev/null
  buildah commit --quiet --rm "${container}" localhost/reasonerzero-base:bookworm >/dev/null
  rm -rf "${root}"
}

if [[ ${BASE_IMAGE} == debian ]]; then
  if [[ ${builder} != buildah || ${EUID} -ne 0 ]] || ! command -v debootstrap >/dev/null; then
    echo "build.sh: BASE_IMAGE=debian needs buildah, debootstrap and root; name an image instead" >&2
    exit 1
  fi
  debian_base
  BASE_IMAGE=localhost/reasonerzero-base:bookworm
fi

build() {
  local name="$1" file="$2"
  shift 2
  local arguments=(--file "docker/${file}.Dockerfile" --tag "${PREFIX}${name}:${TAG}"
    --build-arg "BASE_IMAGE=${BASE_IMAGE}" --build-arg "VERSION=${TAG}"
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" "$@")
  # shellcheck disable=SC2206  # words on purpose
  arguments+=(${BUILD_ARGS})
  if [[ ${builder} == buildah ]]; then
    # The docker format, because the OCI one has no health checks; chroot, because containers may not start containers.
    buildah bud --quiet --format docker --layers --isolation "${BUILDAH_ISOLATION:-chroot}" --network host "${arguments[@]}" . >/dev/null
  else
    docker build --quiet "${arguments[@]}" . >/dev/null
  fi
  if [[ -n ${ARCHIVES} ]]; then
    rm -f "${ARCHIVES}/${name}.tar"
    buildah push --quiet "${PREFIX}${name}:${TAG}" "oci-archive:${ARCHIVES}/${name}.tar:${PREFIX}${name}:${TAG}"
  fi
  "${builder}" images --format '{{.Repository}}:{{.Tag}}  {{.Size}}' 2>/dev/null | grep -F "${PREFIX}${name}:${TAG} " \
    || "${builder}" images | grep -F "${PREFIX}${name}"
}

for name in "${names[@]}"; do
  case "${name}" in
    operator | reward) build "${name}" "${name}" ;;
    worker | worker-cpu) build "${name}" worker --build-arg "VARIANT=${name}" --build-arg "TORCH_INDEX=${TORCH_INDEX}" ;;
    *)
      echo "build.sh: found the image '${name}'; known are operator, reward, worker, worker-cpu" >&2
      exit 1
      ;;
  esac
done
