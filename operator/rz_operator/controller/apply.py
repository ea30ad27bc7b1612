"""Everything that is done to a cluster may be done twice: that a child is there already, or gone already, is success.

So a crash between any two calls is repaired by the next look. ``reconcile`` calls it with what ``decide`` wants; it
creates, deletes, and remembers what the API server refused. It decides nothing.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

from rz_api import names
from rz_api.status import RetryState
from rz_operator import manifests
from rz_operator.apiserver.bodies import at, controller_of, is_controlled_by_run, uid_of
from rz_operator.apiserver.cluster import ApiError, Body, Cluster
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller import words
from rz_operator.controller.cache import REDUCE, Cache
from rz_operator.controller.quotas import is_quota
from rz_operator.controller.refusal_fields import with_fields
from rz_operator.controller.refusals import holds_up
from rz_operator.controller.rendering import in_words
from rz_operator.controller.seen import Children, SeenDeployment, SeenPod
from rz_operator.controller.slow_start import slow_start, together
from rz_operator.controller.specs import correction, spec_digest
from rz_operator.decisions.backoff import backoff_seconds
from rz_operator.decisions.members import DEPLOYED, Action, Start, Stop

log = logging.getLogger(__name__)

REFUSAL_SECONDS, LONGEST_REFUSAL_SECONDS = 60.0, 600.0
"""Wait after the API server refused a create (quota, a webhook, an invalid object), doubled with each refusal."""

QUOTA_SECONDS = 40.0
"""The same for a quota (and for pods of Deployments), not doubled: one that is raised sends no event that we may see,
and whoever has raised it waits for the pods. With a poll (15 s) on top they come within a minute."""

ACTIONS_A_LOOK = 300
"""Members of a role that one look starts, or stops; the next look goes on. So a run of thousands is looked at (and the
ends of its pods are seen) many times while it starts, and one look stays far below what the probes call stuck."""

ACT_SECONDS = 60.0
"""From which a look begins no further batch: an API server (or a webhook) may take many seconds for a create."""

SWEPT_A_LOOK = 100
"""PodGroups and budgets of old gangs that one look deletes; there are two at most, unless something went wrong."""

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
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._cluster = cluster
        self._cache = cache
        self._context = context
        self._children = children
        self._now = now
        self._new_token = new_token
        self._on_refusal = on_refusal
        self.retries = dict(retries)
        self._fresh: set[str] = set()
        """Keys of ``retries`` that this look has put there."""

    # ------------------------------------------------------------------------------------------------- statics

    async def keep_statics(self, incarnation: int) -> None:
        """Services and the NetworkPolicy are there and as they are rendered, as long as the run lives; the rendezvous
        Service selects ``incarnation``."""
        found = {("Service", each.name): each.digest for each in self._children.services}
        found |= {("NetworkPolicy", each.name): each.digest for each in self._children.policies}
        for body in manifests.statics(self._context, incarnation):
            digest, rendered = found.get((body["kind"], body["metadata"]["name"])), spec_digest(body)
            if digest is None:
                await self._create(body)
                # Taken, and by this run: somebody has taken its labels away, without which no watch shows it.
                digest = rendered if self._is_seen(body) or self._waits(_key(body)) else ""
            if digest != rendered:
                await self._correct(body)

    def _is_seen(self, body: Body) -> bool:
        # Not this look's children: it may have been created a moment ago.
        children = self._cache.children(self._context.namespace, self._context.run_uid)
        seen = children.services if body["kind"] == "Service" else children.policies
        return any(each.name == body["metadata"]["name"] for each in seen)

    async def _correct(self, body: Body) -> None:
        """Make a Service or NetworkPolicy of ours what it should be again. Raises ApiError (conflict) where somebody
        writes to it at the same time."""
        kind, name, key = body["kind"], body["metadata"]["name"], _key(body)
        if self._waits(key):
            return
        try:
            found = await self._cluster.get(kind, self._context.namespace, name)
            if not is_controlled_by_run(found, self._context.name, self._context.run_uid):
                return  # by now it is another's: ``_create`` will say so
            patch = correction({**found, "kind": kind}, body)
            answer = await self._cluster.patch(kind, self._context.namespace, name, patch)
        except ApiError as error:
            if error.refused:
                self._remember_refusal(kind, key, error.message)
            elif not error.not_found:
                raise
            return
        self._cache.see_child(kind, answer)
        if spec_digest({**answer, "kind": kind}) != spec_digest(body):
            # A webhook, or a server with a default that we don't know: not at every look, it would be for ever.
            self._remember_refusal(kind, key, "the API server keeps another spec than the one that was written")
            return
        self.retries.pop(key, None)
        log.info("%s: %s was not as it should be, and was corrected", self._context.name, key)

    async def nudge_refused(self) -> None:
        """Have Kubernetes try refused pods of ledger and reward again: its own back-off reaches 1000 s, and whoever has
        raised a quota waits for them."""
        for deployment in self._children.deployments:
            if deployment.refusal and not deployment.deleting and self._now >= nudge_due(deployment):
                annotations = {names.ANNOTATION_TRY_AGAIN: words.stamp(self._now)}
                await self._patch("Deployment", deployment.name, {"metadata": {"annotations": annotations}})

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

    async def act(self, actions: Sequence[Action], gang_restarts: int) -> bool:
        """Stop and start, role by role in the order in which they are named; whether all that may be done was done
        (else look again soon).

        Within a role starts are slow starts: after one that is refused or fails no further one of it is tried in this
        look. Nothing else stops anything; the first failure is raised at the end. No answer at all is raised at once,
        and what is no failure of one action.
        """
        end, first = self._monotonic() + ACT_SECONDS, None
        groups = _by_role(actions)
        for group in groups:
            for error in await self._act_alike(group[:ACTIONS_A_LOOK], gang_restarts, end):
                if not isinstance(error, TransientError) and not (isinstance(error, ApiError) and error.status):
                    raise error
                first = first or error
        if first is not None:
            raise first
        return all(len(group) <= ACTIONS_A_LOOK for group in groups) and self._monotonic() < end

    async def _act_alike(self, group: Sequence[Action], gang_restarts: int, end: float) -> list[Exception]:
        """A group of ``_by_role``; what went wrong."""
        if isinstance(group[0], Stop):
            return await together(cast(Sequence[Stop], group), self._stop)
        do = partial(self._start, gang_restarts=gang_restarts)
        try:
            await slow_start(cast(Sequence[Start], group), do, lambda: self._monotonic() < end)
        except (ApiError, TransientError) as error:
            return [error]
        return []

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
            # Without its budget a gang is not protected against evictions, and trains all the same.
            if not await self._create(body) and body["kind"] != "PodDisruptionBudget":
                return False
        return True

    async def keep_budget(self, incarnation: int, known: bool) -> bool:
        """Whether the gang's budget is there, as far as one is wanted. With the gang's first pod it is tried once: it
        is tried again where it was refused, and, unless it is ``known`` to be there, where the operator may have died
        before it could remember that."""
        key = f"PodDisruptionBudget/{names.trainer_pod_group(self._context.name, incarnation)}"
        wanted = self._context.run.spec.scheduling.disruption_budget and incarnation in {
            pod.member.incarnation for pod in self._children.of("trainer")
        }
        if (key not in self.retries and (known or not wanted)) or self._waits(key):
            return known
        try:
            bodies = manifests.for_start(self._context, Start("trainer", 0, incarnation), 0)
        except Exception:  # of the gang itself, which says so when it starts
            return False
        for body in bodies:
            if _key(body) == key:
                return await self._create(body)
        self.retries.pop(key, None)  # nobody asks for one any more
        return False

    async def sweep(self, keep: int | None) -> bool:
        """Delete PodGroups and budgets of this run's gangs, but those of incarnation ``keep``: of gangs that ended, and
        of those that were skipped. Whether none is left. They are found by label, and deleted only where the run is
        their controller."""
        context, doomed = self._context, list[Body]()
        kept = names.trainer_pod_group(context.name, keep) if keep else ""
        for kind, version in _gang_kinds(context.capabilities):
            for body in await self._of_run(kind, version):
                if body["metadata"]["name"] != kept and is_controlled_by_run(body, context.name, context.run_uid):
                    doomed.append(body)

        async def delete(body: Body) -> None:
            metadata = body["metadata"]
            await self._cluster.delete(
                body["kind"],
                context.namespace,
                metadata["name"],
                uid=metadata["uid"],
                api_version=body["apiVersion"],
            )

        failed = await together(doomed[:SWEPT_A_LOOK], delete)
        if failed:
            raise failed[0]
        return len(doomed) <= SWEPT_A_LOOK

    async def _of_run(self, kind: str, version: str) -> list[Body]:
        """A page of them: what is left after that is found by the next look."""
        selector = f"{names.LABEL_RUN_UID}={self._context.run_uid}"
        try:
            async for page in self._cluster.pages(kind, self._context.namespace, selector, api_version=version):
                return page.items
        except ApiError as error:
            if error.status == 403:  # an operator that was upgraded before its role: a leak, and no more than that
                log.warning(
                    "%s: may not list %s, so those of old gangs stay: %s", self._context.name, kind, error.message
                )
            elif not error.not_found:  # its API was uninstalled, and they with it
                raise
        return []

    async def _stop(self, stop: Stop) -> None:
        namespace, uid = self._context.namespace, self._context.run_uid
        if stop.role in DEPLOYED:
            deployment = next((each for each in self._children.deployments if each.uid == stop.uid), None)
            if deployment is not None:
                await self._cluster.delete("Deployment", namespace, deployment.name, uid=stop.uid)
                # Background deletion takes the object at once; its pods count until they are gone (``observe``).
                self._cache.forget_child("Deployment", (namespace, uid), deployment.name, stop.uid)
            return
        pod = self._pods.get(stop.uid)
        if pod is not None:
            await self._cluster.delete("Pod", namespace, pod.name, uid=stop.uid, grace_seconds=stop.grace_seconds)

    @cached_property
    def _pods(self) -> Mapping[str, SeenPod]:
        """By UID."""
        return {pod.member.uid: pod for pod in self._children.pods}

    # ------------------------------------------------------------------------------------------------- creating

    async def create_config(self, data: Mapping[str, str], replace: bool) -> bool:
        """Write the frozen run. False: refused, or not yet to be tried again."""
        body = manifests.config_map(self._context, data)
        if not replace:
            return await self._create(body)
        name, key = body["metadata"]["name"], _key(body)
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
        """Whether something without which it does not start was refused a moment ago."""
        return any(holds_up(key, self._context.name, start.role) and self._waits(key) for key in self.retries)

    def is_due(self, *kinds: str) -> bool:
        """Whether one of these kinds was refused, and may be tried again."""
        return any(key.partition("/")[0] in kinds and not self._waits(key) for key in self.retries)

    async def _create(self, body: Body) -> bool:
        """Whether the object is there now; a refusal is remembered, and not tried again before its time."""
        kind, name, key = body["kind"], body["metadata"]["name"], _key(body)
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
            self._remember_refusal(kind, key, self._with_fields(body, error.message))
            return False
        if kind == "Pod" and manifests.is_out_of_its_queue(created):
            # Before anything of it runs: a gang without its queue takes nodes that are others' turn.
            await self._cluster.delete(kind, self._context.namespace, name, created["metadata"]["uid"], 0)
            self._remember_refusal(kind, key, words.NO_POD_QUEUES)
            return False
        self.retries.pop(key, None)
        if kind in REDUCE:
            self._cache.see_child(kind, created)
        return True

    def _with_fields(self, body: Body, message: str) -> str:
        """The server's words about a pod, with the fields of the run that they are about."""
        if body["kind"] != "Pod":
            return message
        role = body["metadata"]["labels"][names.LABEL_ROLE]
        return with_fields(message, role, self._context.run.spec.scheduling.gpu_resource)

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
        return any(uid_of(body) == run_uid for _, body in self._cache.runs())

    def _remember_refusal(self, kind: str, key: str, message: str) -> None:
        """Of the pods of a role one refusal stands for all: they differ in a number, and the status must stay small."""
        alike = [other for other in self.retries if other == key or _is_same_role(key, other)]
        if self._fresh.intersection(alike):
            return  # another one of the same batch
        failures = 1 + max((self.retries.pop(other).failures for other in alike), default=0)
        wait = QUOTA_SECONDS
        if not is_quota(message):
            wait = backoff_seconds(failures, REFUSAL_SECONDS, LONGEST_REFUSAL_SECONDS)
        self.retries[key] = RetryState(
            failures=failures, not_before=self._now + wait, message=message[:LONGEST_MESSAGE]
        )
        self._fresh.add(key)
        self._on_refusal(kind)
        log.warning("%s: %s was refused, tried again in %.0f s: %s", self._context.plan.run.name, key, wait, message)


def has(found: Any, rendered: Any, *path: str) -> bool:
    """Whether what is there at ``path`` has all that was rendered; a server and its webhooks may have added to it."""
    found = at(found, *path)
    if not isinstance(rendered, Mapping):
        return bool(found == rendered)
    return all(has(found, value, key) for key, value in rendered.items())


def nudge_due(deployment: SeenDeployment) -> float:
    """When a Deployment whose pods are refused is next asked to try again, Unix seconds."""
    return max(deployment.refused_since, deployment.nudged) + QUOTA_SECONDS


def _by_role(actions: Iterable[Action]) -> list[list[Action]]:
    """Stops and starts of each role, in the order in which each comes first."""
    found: dict[tuple[type, str], list[Action]] = {}
    for action in actions:
        found.setdefault((type(action), action.role), []).append(action)
    return list(found.values())


def _key(body: Body) -> str:
    return f"{body['kind']}/{body['metadata']['name']}"


def _gang_kinds(capabilities: Capabilities) -> list[tuple[str, str]]:
    """Kind and apiVersion of what a gang has besides its pods; of all modes, since a run's may have been changed."""
    versions = sorted(set(capabilities.pod_groups.values()))
    return [("PodDisruptionBudget", capabilities.policy), *(("PodGroup", version) for version in versions)]


def _is_same_role(key: str, other: str) -> bool:
    """``Pod/NAME-rollout-i1-7`` and ``Pod/NAME-rollout-i2-9``: another incarnation or index of one role."""
    return key.startswith("Pod/") and _without_numbers(key) == _without_numbers(other)


def _without_numbers(key: str) -> str:
    return re.sub(r"(-i[0-9]+)?-[0-9]+$", "", key)


def _namespace_ends(error: ApiError) -> bool:
    # A quota's 403 has the same reason, Forbidden; only the sentence tells them apart.
    return error.status == 403 and "because it is being terminated" in error.message
