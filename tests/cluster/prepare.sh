#!/usr/bin/env bash
# What the tests on a whole cluster need, outside of their network namespace: Debian packages, Kubernetes, Helm and the
# operator's image. Seconds once everything is there.   tests/cluster/prepare.sh PYTHON
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${1:?the Python of the environment}"

if [[ ${EUID} -ne 0 || ! -f /etc/debian_version ]]; then
  echo "test-cluster: found user ${EUID} on $(uname -s); it needs root, to start containers, and Debian, whose packages it takes" >&2
  exit 1
fi

declare -A packages=(
  [containerd]=containerd [runc]=runc [iptables]=iptables [conntrack]=conntrack [ip]=iproute2 [dnsmasq]=dnsmasq-base
  [buildah]=buildah [debootstrap]=debootstrap [gcc]=gcc
)
missing=()
for program in "${!packages[@]}"; do
  command -v "${program}" >/dev/null || missing+=("${packages[${program}]}")
done
[[ -x /usr/lib/podman/netavark ]] || missing+=(netavark)  # buildah ends without it
[[ -x /usr/lib/cni/bridge ]] || missing+=(containernetworking-plugins)
[[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
if ((${#missing[@]})); then
  echo "test-cluster 1/4: Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

echo "test-cluster 2/4: Kubernetes (built once, about 6 minutes on 2 cores)"
"${python}" tests/apiserver/kube_binaries.py --node >/dev/null

echo "test-cluster 3/4: helm and kubectl"
PYTHONPATH=tests/charts "${python}" -c 'import helm_binaries; helm_binaries.helm_folder()'

echo "test-cluster 4/4: the operator's image"
mkdir -p .images
# What pip needs to reach its index through this machine's proxy, if there is one, is not in the base image.
certificates=()
[[ -d /etc/ssl/certs ]] && certificates=(-v /etc/ssl/certs:/etc/ssl/certs:ro)
BASE_IMAGE=debian PREFIX=localhost/reasonerzero- TAG=test ARCHIVES=.images BUILD_ARGS="${certificates[*]}" docker/build.sh operator
