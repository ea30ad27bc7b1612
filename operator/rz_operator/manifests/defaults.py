"""What lies below a run's own words in a pod: the operator's owner's defaults, then the operator's for lost nodes and
for resources that nobody named. ``pod`` calls these.

What is frozen with the run comes from ``context.defaults`` (``rz_api.run_defaults``); requests are arithmetic on the
spec (``rz_api.requests``). A run that was accepted under rendering version 1 gets neither requests nor tolerations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rz_api.names import Role
from rz_api.requests import default_requests
from rz_operator.manifests.context import Body, Context
from rz_operator.plan import RoleSet

CA_FOLDER = "/etc/reasonerzero/ca"
CA_FILE = f"{CA_FOLDER}/ca-bundle.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
"""Where OpenSSL, requests, curl and botocore look for certificates; each has its own."""

MOVED_AFTER_SECONDS = 30
"""How long ledger and reward stay on a node that is lost. Kubernetes' own default is 300 s, in which nobody leases or
scores; nothing of theirs is lost with a pod that was moved too soon."""
LOST_NODE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")

NOT_TO_BE_DISRUPTED = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
"""On trainers: consolidating one node away restarts the whole gang."""


# ------------------------------------------------------------------------------------------------------- metadata


def metadata(context: Context, role: Role, own: Body) -> tuple[Body, frozenset[str]]:
    """``own`` with the defaults' labels and annotations below it, and the keys that a ``podTemplate`` may replace."""
    labels, annotations = dict(context.defaults.labels), dict(context.defaults.annotations)
    if role == "trainer" and context.run.rendering_version >= 2:
        annotations = NOT_TO_BE_DISRUPTED | annotations
    soft = frozenset((labels.keys() | annotations.keys()) - own["labels"].keys() - own["annotations"].keys())
    laid = {"labels": labels | own["labels"], "annotations": annotations | own["annotations"]}
    return own | laid, soft


# ------------------------------------------------------------------------------------------------------------ spec


def security_context(context: Context) -> Body:
    """Restricted, and whatever user the owner has decided for; none where the platform chooses."""
    given = context.defaults.security_context
    return {"runAsNonRoot": True, **given, "seccompProfile": given.get("seccompProfile", {"type": "RuntimeDefault"})}


def placement(context: Context, role: Role) -> Body:
    """Pull secrets, node selector and tolerations; only what there is."""
    options, defaults = context.options(role), context.defaults
    found: Body = {}
    if defaults.image_pull_secrets:
        found["imagePullSecrets"] = [{"name": secret.name} for secret in defaults.image_pull_secrets]
    if defaults.node_selector or options.node_selector:
        found["nodeSelector"] = defaults.node_selector | options.node_selector
    tolerations = [*options.tolerations, *(each for each in defaults.tolerations if each not in options.tolerations)]
    if role in ("ledger", "reward") and context.run.rendering_version >= 2:
        tolerations += [
            _moved_after(taint) for taint in LOST_NODE if not any(_covers(each, taint) for each in tolerations)
        ]
    if tolerations:
        found["tolerations"] = tolerations
    return found


def _moved_after(taint: str) -> Body:
    return {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": MOVED_AFTER_SECONDS}


def _covers(toleration: Mapping[str, Any], taint: str) -> bool:
    """Whether the user has decided about this taint: the shortest of several tolerations would win."""
    return toleration.get("key", "") in ("", taint) and toleration.get("effect", "") in ("", "NoExecute")


# ------------------------------------------------------------------------------------------------------- resources


def resources(context: Context, role_set: RoleSet) -> Body:
    """``resources`` of the main container: what the spec says, and requests for what it says nothing of."""
    given = role_set.resources
    found: Body = given.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if context.run.rendering_version >= 2:
        wanted = default_requests(context.run.spec, role_set.role)
        # A limit without a request is a request of as much.
        free: Body = {name: amount for name, amount in wanted.items() if name not in given.requests | given.limits}
        found = ({"requests": free | given.requests} if free or given.requests else {}) | {
            key: value for key, value in found.items() if key != "requests"
        }
    claims = [{"name": claim.name} for claim in context.claims(role_set.role)]
    return found | ({"claims": claims} if claims else {})


def resource_claims(context: Context, role: Role) -> Iterable[Body]:
    """``resourceClaims`` of the pod."""
    for claim in context.claims(role):
        yield claim.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"roles"})


# ----------------------------------------------------------------------------------------- environment and volumes


def environment(context: Context) -> list[Body]:
    """``env`` entries that lie below the operator's own: proxy, certificates, then what is named one by one."""
    defaults = context.defaults
    found = {name: {"name": name, "value": value} for name, value in defaults.proxy.env().items()}
    if defaults.ca_bundle is not None:
        found |= {name: {"name": name, "value": CA_FILE} for name in CA_VARIABLES}
    for variable in defaults.env:
        found.pop(variable.name, None)
        found[variable.name] = variable.model_dump(mode="json", by_alias=True, exclude_none=True)
    return list(found.values())


def volumes(context: Context) -> list[Body]:
    bundle, found = context.defaults.ca_bundle, list(context.defaults.volumes)
    if bundle is not None:
        items = [{"key": bundle.key, "path": CA_FILE.rpartition("/")[2]}]
        found.append({"name": "ca", "configMap": {"name": bundle.config_map, "items": items}})
    return found


def mounts(context: Context) -> list[Body]:
    found = list(context.defaults.volume_mounts)
    if context.defaults.ca_bundle is not None:
        found.append({"name": "ca", "mountPath": CA_FOLDER, "readOnly": True})
    return found
