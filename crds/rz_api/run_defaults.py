"""What the operator's owner decides for the pods of all runs, as far as a run's spec does not say otherwise.

The chart's value ``runDefaults`` is this, in ``RZ_RUN_DEFAULTS``. A run keeps those of the day on which it was accepted
(``ResolvedRun.pod_defaults``): a change of the chart reaches new runs alone.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator

from rz_api import names
from rz_api.spec import EnvVar, FreeForm, SecretName, SpecModel

USER_ID = 65532
"""User and group of all containers, the usual number of images without a user of their own."""

SECURITY_CONTEXT: dict[str, Any] = {
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    # Else the kubelet changes the owner of every file of a volume at every start.
    "fsGroupChangePolicy": "OnRootMismatch",
}

NEVER_PROXIED = ("localhost", "127.0.0.1", "::1", ".svc", ".cluster.local")
"""Hosts that no proxy is asked for: the run's own Services are among them."""

_HOST = re.compile(r"^(localhost|[^/]*[.:][^/]*)$")
"""Of an image's first part: a registry has a dot or a port in its name."""


class SecretReference(SpecModel):
    """A Secret in the run's namespace."""

    name: SecretName
    """Its name."""


class Proxy(SpecModel):
    """An HTTP proxy by which buckets and the hub are reached."""

    http: str = ""
    """For `http://`."""
    https: str = ""
    """For `https://`."""
    exceptions: list[str] = Field(default_factory=list)
    """Hosts and domains besides those of the cluster that are reached directly."""

    def env(self) -> dict[str, str]:
        """The variables that programs look for, in both spellings."""
        if not self.http and not self.https:
            return {}
        pairs = {"HTTP_PROXY": self.http, "HTTPS_PROXY": self.https}
        pairs["NO_PROXY"] = ",".join(dict.fromkeys((*NEVER_PROXIED, *self.exceptions)))
        given = {name: value for name, value in pairs.items() if value}
        return given | {name.lower(): value for name, value in given.items()}


class CaBundle(SpecModel):
    """Certificates of the authorities that buckets and proxies are trusted by."""

    config_map: Annotated[str, Field(max_length=253)]
    """ConfigMap in the run's namespace, such as one that trust-manager or OpenShift fills."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "ca-bundle.crt"
    """Its key with the bundle (PEM); it takes the place of the image's own, so it must be complete."""


class RunDefaults(SpecModel):
    """For the pods of every role. What a role says itself, in its fields or its `podTemplate`, goes before it."""

    registry: Annotated[str, Field(pattern=r"^([a-z0-9]([-._a-z0-9:/]*[a-z0-9])?)?$")] = ""
    """Put before an image of a run that names no registry: `team/worker:1` is then pulled from here."""
    image_pull_secrets: list[SecretReference] = Field(default_factory=list)
    """Secrets in the run's namespace that images are pulled with."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the pods."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the pods."""
    env: list[EnvVar] = Field(default_factory=list)
    """Environment of the main container, before the operator's own."""
    env_from: list[FreeForm] = Field(default_factory=list)
    """Sources of environment, before those of the run."""
    proxy: Proxy = Proxy()
    """The proxy; absent reaches everything directly."""
    ca_bundle: CaBundle | None = None
    """Certificates; absent trusts those of the image."""
    volumes: list[FreeForm] = Field(default_factory=list)
    """Volumes of the pods."""
    volume_mounts: list[FreeForm] = Field(default_factory=list)
    """Mounts of the main container."""
    security_context: FreeForm = Field(default_factory=lambda: dict(SECURITY_CONTEXT))
    """The pods' `securityContext` besides `runAsNonRoot` and the seccomp profile. Without `runAsUser` and `fsGroup` the
    platform chooses them (OpenShift)."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Node labels that the pods need."""
    tolerations: list[FreeForm] = Field(default_factory=list)
    """Taints that the pods tolerate."""

    @field_validator("labels", "annotations")
    @classmethod
    def _not_ours(cls, found: dict[str, str]) -> dict[str, str]:
        for key in found:
            if names.is_ours(key):
                raise ValueError(f"found {key}; the operator knows the run's pods by it: use another key")
        return found

    @field_validator("env")
    @classmethod
    def _not_the_operators(cls, found: list[EnvVar]) -> list[EnvVar]:
        for variable in found:
            if variable.name.startswith("RZ_"):
                raise ValueError(f"found {variable.name}; names that begin with RZ_ are the operator's: remove it")
        return found

    def image(self, name: str) -> str:
        """``name`` with the registry before it, unless it names one itself."""
        first, slash, _ = name.partition("/")
        if not self.registry or name.startswith(f"{self.registry}/") or (slash and _HOST.match(first)):
            return name
        return f"{self.registry}/{name}"
