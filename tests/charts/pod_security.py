"""The Pod Security Standards of Kubernetes as a pure function: what of a pod the level *restricted* does not admit.

Source: the "Pod Security Standards" page of the Kubernetes documentation, policies of *baseline* and *restricted*.
Linux pods only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
MAY_ADD = {"NET_BIND_SERVICE"}
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(spec: Object) -> list[str]:
    """One sentence for each thing of a PodSpec that *restricted* refuses; sorted."""
    containers = [
        each for kind in ("initContainers", "containers", "ephemeralContainers") for each in spec.get(kind, [])
    ]
    found = list(_of_pod(spec))
    for container in containers:
        found += [
            f"{container['name']}: {wrong}" for wrong in _of_container(container, spec.get("securityContext", {}))
        ]
    return sorted(found)


def _of_pod(spec: Object) -> Iterator[str]:
    yield from (f"{name} is true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    for volume in spec.get("volumes", []):
        (kind,) = volume.keys() - {"name"} or {"emptyDir"}
        if kind not in VOLUMES:
            yield f"volume {volume['name']} is a {kind}"
    security = spec.get("securityContext", {})
    yield from _of_either(security)
    yield from (f"sysctl {each['name']}" for each in security.get("sysctls", []) if each["name"] not in SAFE_SYSCTLS)


def _of_container(container: Object, pod: Object) -> Iterator[str]:
    security = container.get("securityContext", {})
    yield from _of_either(security)
    if security.get("privileged"):
        yield "privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if security.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if security.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield "no seccompProfile"
    if security.get("procMount", "Default") != "Default":
        yield f"procMount {security['procMount']}"
    capabilities = security.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop ALL capabilities"
    yield from (f"adds the capability {each}" for each in capabilities.get("add", []) if each not in MAY_ADD)
    yield from (f"hostPort {port['hostPort']}" for port in container.get("ports", []) if port.get("hostPort"))
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        for how in ("httpGet", "tcpSocket"):
            if container.get(probe, {}).get(how, {}).get("host"):
                yield f"{probe} names a host"


def _of_either(security: Object) -> Iterator[str]:
    """What both a pod and a container may say."""
    if security.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if security.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    if security.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "seccompProfile is Unconfined"
    if security.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield "appArmorProfile is Unconfined"
    selinux = security.get("seLinuxOptions", {})
    if selinux.get("type") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
