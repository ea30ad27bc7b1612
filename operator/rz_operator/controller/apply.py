"""Everything that is done to a cluster may be done twice: that a child is there already, or gone already, is success.

So a crash between any two calls is repaired by the next look. ``reconcile`` calls it with what ``decide`` wants; it
creates, deletes, and remembers what the API server refused. It decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rz_api import names
from rz_api.status import RetryState
from rz_operator import manifests
from rz_operator.apiserver.bodies import at, controller_of, is_controlled_by_run
from rz_operator.apiserver.cluster import ApiError, Body, Cluster
from rz_operator.controller.cache import REDUCE, Cache
from rz_operator.controller.rendering import in_words
from rz_operator.controller.seen import Children, SeenService
from rz_operator.decisions.backoff import backoff_seconds
from rz_operator.decisions.members import DEPLOYED, Action, Start, Stop

log = logging.getLogger(__name__)

REFUSAL_SECONDS, LONGEST_REFUSAL_SECONDS = 60.0, 600.0
"""Wait after the API server refused a create (quota, a webhook, an invalid object), doubled with each refusal."""

LONGEST_MESSAGE = 1000
"""Characters kept of a refusal, which is kept in the status."""


OF_ONE_GANG = frozenset(("PodGroup", "PodDisruptionBudget"))
"""Kinds that are made before a gang's first pod. When that is refused and the run is made smaller, they are what the
gang was to be; with such a group it would wait for ever."""


class TransientError(Exception):
    """Something that time repairs: look again soon."""


class Applier:
    """Acts for one look at one run. ``retries`` is what the status is to remember of refusals; read it afterwards."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        context: manifests.Context,
        children: Children,
        retries: Mapping[str, RetryState],
        now: float,
        new_token: Callable[[], str],
        on_refusal: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._context = context
        self._children = children
        self._now = now
        self._new_token = new_token
        self._on_refusal = on_refusal
        self.retries = dict(retries)

    # ------------------------------------------------------------------------------------------------- statics

    async def keep_statics(self, incarnation: int) -> None:
        """Services and the NetworkPolicy, as long as the run lives; the rendezvous Service selects ``incarnation``."""
        there = {("Service", service.name) for service in self._children.services}
        there |= {("NetworkPolicy", key.removeprefix("NetworkPolicy/")) for key in self._children.others}
        for body in manifests.statics(self._context):
            if (body["kind"], body["metadata"]["name"]) not in there:
                await self._create(body)
        await self._keep_selector(incarnation)

    async def _keep_selector(self, incarnation: int) -> None:
        name = names.trainer_service(self._context.plan.run.name)
        found = self._service(name)
        if incarnation and found is not None and found.incarnation != incarnation:
            patch = manifests.rendezvous_selector(self._context, incarnation)
            await self._patch("Service", name, patch)

    def _service(self, name: str) -> SeenService | None:
        # Not this look's children: the Service may have been created a moment ago.
        children = self._cache.children(self._context.namespace, self._context.run_uid)
        return next((service for service in children.services if service.name == name), None)

    async def keep_reward_replicas(self) -> None:
        """``reward.replicas`` acts at once; nothing else of a running Deployment is ever touched."""
        wanted = self._context.plan.run.spec.reward.replicas
        for deployment in self._children.deployments:
            if deployment.role == "reward" and deployment.replicas != wanted and not deployment.deleting:
                await self._patch("Deployment", deployment.name, manifests.scale_patch(wanted))

    async def _patch(self, kind: Any, name: str, body: Body) -> None:
        key = f"{kind}/{name}"
        if self._waits(key):
            return
        try:
            self._cache.see_child(kind, await self._cluster.patch(kind, self._context.namespace, name, body))
        except ApiError as error:
            if error.refused:
                self._remember_refusal(kind, key, error.message)
            # Gone meanwhile: the next look creates it as it should be.
            elif not error.not_found:
                raise
        else:
            self.retries.pop(key, None)

    def _waits(self, key: str) -> bool:
        """Whether it was refused, and is not to be tried again yet."""
        refusal = self.retries.get(key)
        return refusal is not None and self._now < refusal.not_before

    # ------------------------------------------------------------------------------------------------- actions

    async def act(self, actions: Sequence[Action], gang_restarts: int) -> None:
        """In this order. After a refused trainer pod no further one of its gang is tried in this pass. An action that
        fails stops no other one; the first failure is raised at the end. No answer at all is raised at once."""
        first: ApiError | None = None
        refused_roles = set()
        for action in actions:
            try:
                if isinstance(action, Stop):
                    await self._stop(action)
                elif action.role not in refused_roles and not await self._start(action, gang_restarts):
                    refused_roles.add(action.role)
            except ApiError as error:
                if error.status == 0:
                    raise
                first = first or error
        if first is not None:
            raise first

    async def _start(self, start: Start, gang_restarts: int) -> bool:
        key = f"Start/{start.role}"
        if self._waits(key):
            return False
        try:
            bodies = manifests.for_start(self._context, start, gang_restarts)
        except Exception as error:  # the API of the gang mode was uninstalled, say
            self._remember_refusal(start.role, key, in_words(self._context.name, error))
            return False
        self.retries.pop(key, None)
        for body in bodies:
            if not await self._create(body):
                return False
            if body["kind"] in ("PodGroup", "PodDisruptionBudget"):
                await self._delete_predecessor(body, start.incarnation)
        return True

    async def _delete_predecessor(self, body: Body, incarnation: int) -> None:
        """What goes with one gang, its PodGroup and its budget, goes when the next one comes."""
        name = names.trainer_pod_group(self._context.plan.run.name, incarnation - 1)
        if incarnation > 1:
            await self._cluster.delete(body["kind"], self._context.namespace, name, api_version=body["apiVersion"])

    async def _stop(self, stop: Stop) -> None:
        namespace, uid = self._context.namespace, self._context.run_uid
        if stop.role in DEPLOYED:
            name = names.ledger(self._context.plan.run.name)
            if stop.role == "reward":
                name = names.reward(self._context.plan.run.name)
            deployment = next((each for each in self._children.deployments if each.uid == stop.uid), None)
            if deployment is not None:
                await self._cluster.delete("Deployment", namespace, name, uid=stop.uid)
                # Background deletion takes the object at once; its pods count until they are gone (``observe``).
                self._cache.forget_child("Deployment", (namespace, uid), name, stop.uid)
            return
        pod = next((pod for pod in self._children.pods if pod.member.uid == stop.uid), None)
        if pod is not None:
            await self._cluster.delete("Pod", namespace, pod.name, uid=stop.uid, grace_seconds=stop.grace_seconds)

    # ------------------------------------------------------------------------------------------------- creating

    async def create_config(self, data: Mapping[str, str], replace: bool) -> bool:
        """Write the frozen run. False: refused, or not yet to be tried again."""
        body = manifests.config_map(self._context, data)
        if not replace:
            return await self._create(body)
        name = body["metadata"]["name"]
        key = f"ConfigMap/{name}"
        if self._waits(key):
            return False
        try:
            await self._cluster.replace("ConfigMap", self._context.namespace, name, body)
        except ApiError as error:
            if error.not_found:  # somebody has deleted it
                return await self._create(body)
            if not error.refused:
                raise
            self._remember_refusal("ConfigMap", key, error.message)
            return False
        self.retries.pop(key, None)
        return True

    async def ensure_token(self) -> None:
        """Have the token's Secret there, which may be created and not read. Where it is refused, pods are started all
        the same: a quota also refuses a second one of what is there."""
        await self._create(manifests.token_secret(self._context, self._new_token()))

    def is_held(self, start: Start) -> bool:
        """Whether something that the role needs was refused a moment ago."""
        mine = f"{self._context.name}-{start.role}"
        names_of = ((key, key.partition("/")[2]) for key in self.retries)
        return any(self._waits(key) for key, name in names_of if name == start.role or name.startswith(mine))

    def is_due(self, *kinds: str) -> bool:
        """Whether one of these kinds was refused, and may be tried again."""
        return any(key.partition("/")[0] in kinds and not self._waits(key) for key in self.retries)

    async def _create(self, body: Body) -> bool:
        """Whether the object is there now; a refusal is remembered, and not tried again before its time."""
        kind, name = body["kind"], body["metadata"]["name"]
        key = f"{kind}/{name}"
        if self._waits(key):
            return False
        try:
            created = await self._cluster.create(kind, self._context.namespace, body)
        except ApiError as error:
            # Another 409 is no taken name: a quota that others write to at the same time answers Conflict, too.
            if error.status == 409 and error.reason == "AlreadyExists":
                return await self._settle_taken_name(body, key)
            if not error.refused:
                raise
            if _namespace_ends(error):
                raise TransientError(error.message) from error
            self._remember_refusal(kind, key, error.message)
            return False
        self.retries.pop(key, None)
        if kind in REDUCE:
            self._cache.see_child(kind, created)
        return True

    async def _settle_taken_name(self, body: Body, key: str) -> bool:
        """The name is taken: by this run (fine), by what an earlier run of the same name left (it is being removed), or
        by somebody else (a refusal)."""
        kind, name = body["kind"], body["metadata"]["name"]
        if kind == "Secret":  # may not be read; its name holds the run's UID
            self.retries.pop(key, None)
            return True
        try:
            found = await self._cluster.get(kind, self._context.namespace, name, body["apiVersion"])
        except ApiError as error:
            if error.not_found:
                raise TransientError(f"{key} has just been deleted") from error
            raise
        metadata = found.get("metadata") or {}
        if is_controlled_by_run(found, self._context.name, self._context.run_uid):
            self.retries.pop(key, None)
            if kind in REDUCE:
                self._cache.see_child(kind, found)
            if metadata.get("deletionTimestamp"):
                raise TransientError(f"{key} is being deleted")
            if kind in OF_ONE_GANG and not has(found, body["spec"], "spec"):
                await self._cluster.delete(
                    kind, self._context.namespace, name, uid=metadata["uid"], api_version=body["apiVersion"]
                )
                raise TransientError(f"{key} is made anew: it was made for another gang than the one that starts")
            return True
        controller = controller_of(found)
        of_a_run = controller.get("kind") == names.KIND and controller.get("name") == self._context.name
        if metadata.get("deletionTimestamp") or (of_a_run and not self._lives(str(controller.get("uid")))):
            raise TransientError(f"{key} of an earlier run is not gone yet")
        self._remember_refusal(
            kind,
            key,
            f"found a {kind} {name} that is not this run's; the name must be free: delete it, or rename the run",
        )
        return False

    def _lives(self, run_uid: str) -> bool:
        return any((body.get("metadata") or {}).get("uid") == run_uid for _, body in self._cache.runs())

    def _remember_refusal(self, kind: str, key: str, message: str) -> None:
        failures = self.retries[key].failures + 1 if key in self.retries else 1
        wait = backoff_seconds(failures, REFUSAL_SECONDS, LONGEST_REFUSAL_SECONDS)
        self.retries[key] = RetryState(
            failures=failures, not_before=self._now + wait, message=message[:LONGEST_MESSAGE]
        )
        self._on_refusal(kind)
        log.warning("%s: %s was refused, tried again in %.0f s: %s", self._context.plan.run.name, key, wait, message)


def has(found: Any, rendered: Any, *path: str) -> bool:
    """Whether what is there at ``path`` has all that was rendered; a server and its webhooks may have added to it."""
    found = at(found, *path)
    if not isinstance(rendered, Mapping):
        return bool(found == rendered)
    return all(has(found, value, key) for key, value in rendered.items())


def _namespace_ends(error: ApiError) -> bool:
    # A quota's 403 has the same reason, Forbidden; only the sentence tells them apart.
    return error.status == 403 and "because it is being terminated" in error.message
