"""One look at one run, from what was seen to what is done about it. The operator's main path; called by the work queue.

1. Read: the run and its children from the cache that the watches fill, the frozen run from its ConfigMap, progress
   from the ledger.
2. Accept: is the spec good, can pods be made of it, what of it acts (``accept``, ``rendering``); write the frozen run
   before anything is started. Whatever fails here, the run goes on as it was frozen, or as it is (``stand_in``).
3. Decide: what is to be started and stopped, and what must be remembered (``decide``, the same as for ``rz run``).
4. Report: conditions and progress for people (``status_report``).
5. Write the status, once, if it changed: PUT with resourceVersion. Whoever was too late looks again.
6. Act: have ConfigMap and token there (``frozen_store``), create, delete (``apply``). What the API server refuses is
   remembered in the status.

It is level-triggered and may be killed anywhere: what a crash leaves undone, the next look finds undone. It may run
twice at once: of two status writes one wins, a name can be created once, and deletes name a UID.

| waits for                   | released by    | if it never comes                                                  |
|-----------------------------|----------------|--------------------------------------------------------------------|
| nodes for the whole gang    | the scheduler  | ``gangTimeoutSeconds``: all are given back, the next in line tries |
| the old gang to be gone     | the kubelets   | 30 s after the back-off the next starts beside it; it is fenced    |
| an answer of the API server | the API server | ``RZ_REQUEST_SECONDS``, then another look; the pods go on          |
| the ledger's status         | the ledger     | the run goes on; LedgerReady, later Stalled say so                 |
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rz_api import names
from rz_api.conditions import ACCEPTED, Reason
from rz_api.status import FINAL_PHASES, RetryState, RunStatus
from rz_operator import manifests
from rz_operator.apiserver.bodies import Body, Statuses, at, uid_of
from rz_operator.apiserver.cluster import ApiError, Cluster
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller import refusals, words
from rz_operator.controller.accept import Verdict, accept, unrenderable
from rz_operator.controller.apply import Applier, nudge_due
from rz_operator.controller.cache import Cache
from rz_operator.controller.completion import Completion
from rz_operator.controller.facts import Facts
from rz_operator.controller.frozen import Frozen
from rz_operator.controller.frozen_store import FrozenStore, Lost
from rz_operator.controller.holdups import Holdups, is_held_up
from rz_operator.controller.line import Line
from rz_operator.controller.observe import observation, unix_seconds
from rz_operator.controller.options import Options
from rz_operator.controller.rendering import Renderer, in_words
from rz_operator.controller.scale_up import ScaleUps
from rz_operator.controller.seen import Children, RunKey
from rz_operator.controller.stand_in import as_it_is
from rz_operator.controller.status_report import report
from rz_operator.controller.storage_claims import StorageClaim
from rz_operator.decisions.decide import Decision, decide
from rz_operator.decisions.members import Action, Event, Reached, Start, Stop, Wanted
from rz_operator.decisions.reached import reached_of
from rz_operator.plan import Plan, wanted

log = logging.getLogger(__name__)

SOON_SECONDS = 1.0
"""Until the next look while something is on its way that sends no event of its own."""


class LedgerReader(Protocol):
    """``service.ledgers.Ledgers``."""

    async def read(self, key: RunKey) -> dict[str, Any] | None: ...
    def silent_since(self, key: RunKey) -> float | None: ...
    def forget(self, key: RunKey) -> None: ...


class Watcher(Protocol):
    """Who is told of what happens (``service.metrics`` and ``service.events`` behind one face)."""

    def tell(self, body: Body, event: Event) -> None: ...
    def refused(self, kind: str) -> None: ...


@dataclass(frozen=True)
class _Run:
    """A run as this look found it."""

    key: RunKey
    body: Body
    uid: str
    memory: RunStatus
    children: Children

    @property
    def something_runs(self) -> bool:
        """Whether something is there that was made from what the run was frozen to, and is not over."""
        return bool(self.children.deployments) or any(pod.member.live for pod in self.children.pods)


class Reconciler:
    """``reconcile(key)`` for any run; holds nothing that a restart would miss."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        options: Options,
        capabilities: Capabilities,
        ledgers: LedgerReader,
        watcher: Watcher,
        clock: Callable[[], float] = time.time,
        wake: Callable[[RunKey], None] = lambda key: None,
    ) -> None:
        """``wake`` has a run looked at soon: one that was waiting for this one."""
        self._cluster = cluster
        self._cache = cache
        self._options = options
        self._completion = Completion(options.images, options.run_defaults, "workload" in capabilities.pod_groups)
        self._ledgers = ledgers
        self._watcher = watcher
        self._clock = clock
        self._uids: dict[RunKey, str] = {}
        self._statuses = Statuses()
        self._line = Line(cache, self._statuses, wake)
        self._frozen = FrozenStore(cluster)
        self._renderer = Renderer(capabilities, options)
        self._holdups = Holdups(cluster)
        self._scale_ups = ScaleUps(cluster)
        self._swept: dict[str, tuple[bool, int]] = {}
        """By run UID: whether no gang was wanted, and its incarnation, when leftovers were last looked for."""
        self._budgets: dict[str, int] = {}
        """By run UID: the gang whose budget is known to be there."""

    async def reconcile(self, key: RunKey) -> float | None:
        """Bring one run nearer to what its spec asks for. Returns the seconds until the next look; None: only when
        something happens. Raises ApiError or TransientError for what another try may repair."""
        run = self._look_up(key)
        if run is None:
            return None
        try:
            return await self._reconcile(run)
        except ApiError as error:
            self._frozen.read_again(run.uid)
            if error.conflict:
                log.debug("%s: somebody else wrote in between, looking again: %s", key, error)
                return SOON_SECONDS
            raise

    async def _reconcile(self, run: _Run) -> float | None:
        now = self._clock()
        frozen = await self._frozen.read(run.key, run.uid, run.something_runs)
        verdict, context = self._accept(run, frozen)
        if context is None:
            status = report(run.memory, Facts(run.body, verdict, None, run.children, None, ""), now)
            await self._write_status(run, status)
            # The folder becomes free when another run ends, which is no event of this run.
            return self._options.poll_seconds if verdict.reason == Reason.STORAGE_REFUSED else None

        rollouts = context.plan.role("rollout").own_nodes
        run = replace(run, memory=refusals.without_old(run.memory, run.key.name, rollouts))
        applier = self._applier(run, context, now)
        if verdict.freeze is not None:
            assert not isinstance(frozen, Lost)
            if await self._frozen.write(run.key, run.uid, verdict.freeze, applier, now):
                # What was refused was made from another spec: this one need not wait for it.
                applier.retries.clear()
                run = replace(run, memory=run.memory.model_copy(update={"retries": {}}))
            elif frozen is not None:
                refusal = applier.retries[f"ConfigMap/{names.config_map(run.key.name)}"].message
                problem = f"the changed spec could not be stored: {refusal}"
                verdict, context = self._without_its_spec(run, frozen, problem, Reason.CREATE_REFUSED)
                assert context is not None
                applier = self._applier(run, context, now, applier.retries)
            else:
                status = run.memory.model_copy(update={"retries": applier.retries})
                facts = Facts(run.body, verdict, context.plan, run.children, None, "")
                await self._write_status(run, report(status, facts, now))
                return self._next_look(context.plan, status, now)

        ledger = await self._ledgers.read(run.key) if _has_ledger(run) else None
        asked = wanted(
            context.plan,
            verdict.suspend,
            by="node",
            longest_gang_wait_seconds=self._options.max_gang_timeout_seconds,
        )
        older = self._line.give_way_to(run.key, run.body, run.memory, asked, now)
        run, decision = await self._decide(run, asked, reached_of(ledger), older, now)
        silent = self._ledgers.silent_since(run.key)
        children = await self._holdups.explained(run.key.namespace, run.children, now)
        facts = Facts(run.body, verdict, context.plan, children, ledger, older, silent)
        status = report(decision.status, facts, now)
        # Before the first action: who dies in between has counted a failure and not acted, never the other way round.
        run = await self._write_status(run, status)
        # After the write: a look that loses the race for it decides again, and would tell everything twice.
        for event in decision.events:
            self._watcher.tell(run.body, event)
        all_done, status = await self._act_and_remember(run, decision, status, applier, facts, now)
        # After the writes: who is woken here reads this run from the cache.
        self._line.move(run.key, now)
        if await self._delete_when_expired(run, context.plan, status, now):
            return None
        if not all_done:
            return SOON_SECONDS
        return self._line.wait_seconds() if older else self._next_look(context.plan, status, now, run.children)

    async def _decide(
        self, run: _Run, asked: Wanted, reached: Reached | None, older: str, now: float
    ) -> tuple[_Run, Decision]:
        """A gang is not ended on what a watch may not have shown yet, nor while nodes for it are on their way: what the
        cache does not have is asked for first."""

        def decision_about(found: _Run, scaling_until: float = 0.0) -> Decision:
            seen = observation(found.children, found.uid, reached, older, now)
            return decide(asked, found.memory, replace(seen, scaling_until=scaling_until), now)

        decision = decision_about(run)
        if run.memory.gang.complete and decision.status.gang.incarnation != run.memory.gang.incarnation:
            run = await self._with_live_pods(run)
            decision = decision_about(run)
        if any(event.reason == Reason.GANG_TIMEOUT for event in decision.events):
            waiting = (pod.member.uid for pod in run.children.of("trainer", "rollout") if not pod.member.bound)
            until = await self._scale_ups.scaling_until(run.key.namespace, run.uid, waiting, now)
            decision = decision_about(run, until) if until else decision
        return run, decision

    # ------------------------------------------------------------------------------------------------------- read

    def _look_up(self, key: RunKey) -> _Run | None:
        body = self._cache.run(key)
        if body is None:
            self._ledgers.forget(key)
            self._uids.pop(key, None)
            self._line.leave(key, self._clock())
            live = {uid_of(body) for _, body in self._cache.runs()}
            self._statuses.keep_only(live)
            self._frozen.keep_only(live)
            self._renderer.keep_only(live)
            self._scale_ups.keep_only(live)
            self._swept = {uid: swept for uid, swept in self._swept.items() if uid in live}
            self._budgets = {uid: gang for uid, gang in self._budgets.items() if uid in live}
            return None
        metadata = body["metadata"]
        if metadata.get("deletionTimestamp"):
            self._line.leave(key, self._clock())
            return None  # the garbage collector removes what it owns
        if self._uids.get(key) != metadata["uid"]:  # what an earlier run of this name said is not this one's
            self._uids[key] = metadata["uid"]
            self._ledgers.forget(key)
        return _Run(
            key, body, metadata["uid"], self._statuses.of(body), self._cache.children(key.namespace, metadata["uid"])
        )

    async def _with_live_pods(self, run: _Run) -> _Run:
        """``run`` with its pods as the API server has them now."""
        selector = f"{names.LABEL_RUN_UID}={run.uid}"
        found = await self._cluster.snapshot("Pod", run.key.namespace, selector)
        for body in found.items:
            self._cache.see_child("Pod", body)
        present = {at(body, "metadata", "uid") for body in found.items}
        for pod in run.children.pods:
            if pod.member.uid not in present:
                self._cache.forget_child("Pod", (run.key.namespace, run.uid), pod.name, pod.member.uid)
        return replace(run, children=self._cache.children(run.key.namespace, run.uid))

    # ----------------------------------------------------------------------------------------------------- accept

    def _accept(self, run: _Run, frozen: Frozen | Lost | None) -> tuple[Verdict, manifests.Context | None]:
        """What the spec means, and how it is rendered; no context: nothing may be started, and nothing is there."""
        if isinstance(frozen, Lost):
            return self._as_it_is(run, Reason.FROZEN_RUN_LOST, words.lost(frozen.problem, frozen.newer))
        incarnation = run.memory.gang.incarnation
        # Above the status, too: where that was lost, the pods tell which gang is the newest (``decide`` adopts it).
        gang_exists = any(pod.member.incarnation >= incarnation for pod in run.children.of("trainer"))
        others_exist = bool(run.children.deployments or run.children.of("ledger", "reward", "rollout"))
        try:
            verdict = accept(run.body, frozen, self._completion, self._claims(run), gang_exists, others_exist)
            return verdict, self._renderer.context(run.key, run.uid, verdict)
        except Exception as error:  # whatever it is: the run is decided about, and can be suspended
            return self._without_its_spec(run, frozen, in_words(run.key, error), Reason.SPEC_INVALID)

    def _without_its_spec(
        self, run: _Run, frozen: Frozen | None, problem: str, reason: str
    ) -> tuple[Verdict, manifests.Context | None]:
        """Nothing may be made of the newest spec (``problem``): the run goes on as it was frozen."""
        try:
            verdict = replace(unrenderable(run.body, frozen, problem), reason=reason)
            return verdict, self._renderer.context(run.key, run.uid, verdict)
        except Exception as error:
            return self._as_it_is(run, reason, in_words(run.key, error))

    def _as_it_is(self, run: _Run, reason: str, message: str) -> tuple[Verdict, manifests.Context | None]:
        """Nothing can be made of what was frozen, either: what is there is kept, and can be stopped."""
        spec = at(run.body, "spec")
        verdict = as_it_is(run.key, run.uid, spec, run.children, reason, message)
        # One that was started is decided about without pods, too: it becomes Suspended, and its TTL acts.
        if not run.something_runs and run.memory.phase == "Pending":
            verdict = replace(verdict, run=None)
        return verdict, self._renderer.context(run.key, run.uid, verdict)

    def _claims(self, run: _Run) -> Iterator[StorageClaim]:
        """What the other runs hold. One that was refused itself holds nothing."""
        for key, body in self._cache.runs():
            uid, uri = str(at(body, "metadata", "uid")), at(body, "spec", "storage", "uri")
            if uid != run.uid and isinstance(uri, str) and not at(body, "metadata", "deletionTimestamp"):
                created = unix_seconds(at(body, "metadata", "creationTimestamp")) or 0.0
                final = at(body, "status", "phase") in FINAL_PHASES
                holds = at(body, "status", "frozen") is True
                does = self._renderer.what_it_does(uid)
                if does is not None:  # what it does really, whatever its spec has been changed to
                    uri = does.spec.storage.uri
                if holds or not _refused(body):
                    yield StorageClaim(str(key), uid, created, uri, final, holds)

    # -------------------------------------------------------------------------------------------------- write, act

    async def _write_status(self, run: _Run, status: RunStatus) -> _Run:
        new = status.to_dict()
        if not _worth_writing(run.body.get("status"), new):
            return run
        body = {**run.body, "status": new}
        written = await self._cluster.replace_status(names.KIND, run.key.namespace, run.key.name, body)
        self._cache.see_run(written)
        return replace(run, body=written, memory=status)

    def _applier(
        self, run: _Run, context: manifests.Context, now: float, retries: Mapping[str, RetryState] | None = None
    ) -> Applier:
        return Applier(
            self._cluster,
            self._cache,
            context,
            run.children,
            run.memory.retries if retries is None else retries,
            now,
            lambda: secrets.token_urlsafe(32),
            self._watcher.refused,
        )

    async def _act_and_remember(
        self, run: _Run, decision: Decision, status: RunStatus, applier: Applier, facts: Facts, now: float
    ) -> tuple[bool, RunStatus]:
        """Whether everything was done that there is to do now, and the status with what was refused. That is a second
        write, as it is known only now: rare, since nothing that was refused is tried again within a minute."""

        async def remember() -> RunStatus:
            if applier.retries == status.retries:
                return status
            new = report(status.model_copy(update={"retries": applier.retries}), facts, now)
            await self._write_status(run, new)
            return new

        try:
            done = await self._act(run, facts.verdict, decision, status, applier, now)
        except Exception:
            try:
                await remember()  # or it would be tried again at every look that fails
            except ApiError as error:
                log.warning("%s: what was refused could not be written to the status: %s", run.key, error)
            raise
        return done, await remember()

    async def _act(
        self, run: _Run, verdict: Verdict, decision: Decision, status: RunStatus, applier: Applier, now: float
    ) -> bool:
        """Whether everything was done that there is to do now."""
        gang, actions = status.gang.incarnation, decision.actions
        if not verdict.may_start:
            return await applier.act([each for each in actions if isinstance(each, Stop)], status.gang.restarts)
        if status.phase in ("Running", "Suspending"):
            if not await self._keep_sources(run, actions, applier, now):
                actions = tuple(each for each in actions if isinstance(each, Stop))
            await applier.keep_statics(gang)
            await applier.keep_reward_replicas()
            await applier.nudge_refused()
        if status.phase == "Running" and await applier.keep_budget(gang, self._budgets.get(run.uid) == gang):
            self._budgets[run.uid] = gang
        done = await applier.act(actions, status.gang.restarts)
        # Last: what an old gang left is in nobody's way.
        return await self._sweep(run, status, applier) and done

    async def _keep_sources(self, run: _Run, actions: Sequence[Action], applier: Applier, now: float) -> bool:
        """Have what every pod mounts there before pods are started, and where some wait for it. False: pods would only
        hang, because the ConfigMap was refused."""
        starts = any(isinstance(action, Start) and not applier.is_held(action) for action in actions)
        hanging = any(is_held_up(pod, now) for pod in run.children.pods) and self._frozen.is_due(
            run.uid, now, soon=True
        )
        if starts or hanging or applier.is_due("ConfigMap", "Secret"):
            await applier.ensure_token()
        elif not self._frozen.is_due(run.uid, now):
            return True
        return await self._frozen.verify(run.key, run.uid, applier, now)

    async def _sweep(self, run: _Run, status: RunStatus, applier: Applier) -> bool:
        """Once for each gang, and once when none is wanted any more: PodGroups and budgets of other gangs go."""
        idle = status.phase in (*FINAL_PHASES, "Suspended")
        now_swept = (idle, status.gang.incarnation)
        # Before the second gang there is nothing of another one.
        if status.gang.incarnation < (1 if idle else 2) or self._swept.get(run.uid) == now_swept:
            return True
        if not await applier.sweep(None if idle else status.gang.incarnation):
            return False
        self._swept[run.uid] = now_swept
        return True

    async def _delete_when_expired(self, run: _Run, planned: Plan, status: RunStatus, now: float) -> bool:
        due = _expires_at(planned, status)
        if due is None or now < due:
            return False
        log.info("%s: deleted, spec.ttlSecondsAfterFinished is over", run.key)
        await self._cluster.delete(names.KIND, run.key.namespace, run.key.name, uid=run.uid)
        return True

    def _next_look(
        self, planned: Plan, status: RunStatus, now: float, children: Children | None = None
    ) -> float | None:
        """A finished or suspended run is looked at when something happens to it; another one is polled."""
        if status.phase in FINAL_PHASES:
            due = _expires_at(planned, status)
            return None if due is None else max(SOON_SECONDS, due - now)
        if status.phase == "Suspended":
            return None
        waits = [status.gang.not_before]
        waits += [entry.not_before for entry in status.members.values()]
        waits += [entry.not_before for entry in status.retries.values()]
        waits += [nudge_due(each) for each in (children or Children()).deployments if each.refusal]
        due = min((each - now for each in waits if each > now), default=self._options.poll_seconds)
        return max(SOON_SECONDS / 4, min(self._options.poll_seconds, due))


def _expires_at(planned: Plan, status: RunStatus) -> float | None:
    """When a finished run's object is to be deleted, Unix seconds; None: never."""
    ttl = planned.run.spec.ttl_seconds_after_finished
    if ttl is None or status.completion_time is None:
        return None
    return status.completion_time.timestamp() + ttl


def _has_ledger(run: _Run) -> bool:
    """Whether there is a ledger of this run's to ask: its Deployment, and a Service of that name which leads to it. A
    Service that somebody else has put under the name is nobody to believe, and nobody to be sent to."""
    name = names.ledger(run.key.name)
    return any(deployment.role == "ledger" for deployment in run.children.deployments) and any(
        (service.name, service.key, service.leads_to) == (name, run.key, "ledger") for service in run.children.services
    )


def _worth_writing(old: Any, new: dict[str, Any]) -> bool:
    """Whether something changed. More units of the same step are no reason of their own: what they forgive is a change
    itself, and the look at a failure writes their number with it."""
    if not isinstance(old, Mapping) or "progressMark" not in old or "progressMark" not in new:
        return bool(new != old)
    return {**old, "progressMark": None} != {**new, "progressMark": None}


def _refused(body: Body) -> bool:
    conditions = at(body, "status", "conditions")
    return isinstance(conditions, list) and any(
        at(each, "type") == ACCEPTED and at(each, "status") == "False" for each in conditions
    )
