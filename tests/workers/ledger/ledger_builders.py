"""A small run and a desk to act on the ledger's state by hand, with fake time.

Short names: ``t1.0`` is the first unit of training step 1, ``e2.1`` the second one of the evaluation of version 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.ledger import leasing, progress, transfers, turns
from rz_workers.ledger.state import Plan, State
from rz_workers.protocol.messages import (
    Assignment,
    Canary,
    Completion,
    Endpoint,
    Heartbeat,
    Lease,
    LeaseReply,
    LeaseRequest,
    Proof,
    ShardRef,
    ShardStats,
    StepReport,
    TakeReply,
    TakeRequest,
    TransferRequest,
    TurnRequest,
    WeightsInfo,
)
from rz_workers.protocol.schedule import EVAL, TRAIN, Unit
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import DataManifest, WeightsManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import write_shard

LEASE_SECONDS = 30.0


def run_of(
    uri: str = "runs/x",
    uid: str = "uid-1",
    max_staleness: int = 0,
    lease_seconds: float = LEASE_SECONDS,
    placement: str = "separate",
) -> ResolvedRun:
    """3 steps of 2 prompt groups x 4 samples, 4 samples a lease (2 units a step); one evaluation set of 2 problems x 4
    samples (2 units), evaluated at versions 0, 2 and 3."""
    spec: dict[str, Any] = {
        "model": {"name": "m"},
        "data": {"train": [{"uri": "d.jsonl"}], "eval": [{"name": "held", "uri": "h.jsonl"}]},
        "storage": {"uri": uri},
        "algorithm": {
            "totalSteps": 3,
            "promptsPerStep": 2,
            "samplesPerPrompt": 4,
            "maxStaleness": max_staleness,
            "samplerCorrection": "tis" if max_staleness else "none",
        },
        "rollout": {"samplesPerLease": 4, "leaseSeconds": lease_seconds, "placement": placement},
        "evaluation": {"interval": 2, "samples": 4},
    }
    return ResolvedRun(name="tiny", uid=uid, spec=ReasonerZeroRunSpec.model_validate(spec))


def plan_of(max_staleness: int = 0, placement: str = "separate") -> Plan:
    run = run_of(max_staleness=max_staleness, placement=placement)
    return Plan(run.name, run.spec, num_prompts=5, eval_sets={"held": 2}, total_steps=3)


def weights_of(version: int, incarnation: int = 1, digest: str | None = None, *, stored: bool = True) -> WeightsInfo:
    return WeightsInfo(
        version=version,
        digest=digest or f"digest-{version}",
        incarnation=incarnation,
        prefix=f"weights/v{version:06d}-i{incarnation}",
        stored=stored,
    )


CANARY = Canary(token_ids=(5, 6, 7), logprobs=(-1.0, -2.0))


def proof_of(version: int, bits: str = "right", *, hardware: str = "cpu", error: float = 0.01) -> Proof:
    return Proof(digest=f"digest-{version}", bits=bits, hardware=hardware, error=error)


def transfer_request(
    version: int, incarnation: int = 1, senders: int = 1, groups: Sequence[str] = ()
) -> TransferRequest:
    return TransferRequest(
        incarnation=incarnation,
        version=version,
        backend="gloo",
        senders=tuple(Endpoint(host=f"trainer-{rank}", port=29600 + rank) for rank in range(senders)),
        groups=tuple(groups),
        seconds=5.0,
    )


def shard_of(
    unit: Unit, attempt: int = 1, version: int | None = None, reward: float = 1.0, masked: int = 0
) -> ShardRef:
    return ShardRef(
        unit=unit,
        attempt=attempt,
        key=unit.shard_key(attempt),
        sha256=f"sha-{unit.unit_id}-{attempt}",
        size_bytes=10,
        rows=unit.num_rows,
        weight_version=unit.step if version is None else version,
        stats=ShardStats(reward_sum=reward, response_tokens=7, masked=masked),
    )


def name_of(unit: Unit) -> str:
    return f"{unit.kind[0]}{unit.step}.{unit.group_ids[0] % 2}"


class Desk:
    """The ledger's state, and one method per event; ``now`` moves only when told to."""

    def __init__(self, max_staleness: int = 0, published: int | None = 0, placement: str = "separate") -> None:
        self.state = State(plan_of(max_staleness, placement), ticked=0.0)
        self.now = 0.0
        self.leases: dict[str, Lease] = {}
        """Unit's short name -> its newest lease."""
        if published is not None:
            self.publish(published)

    def unit(self, name: str) -> Unit:
        kind, number, index = (TRAIN if name[0] == "t" else EVAL), int(name[1]), int(name[3])
        return self.state.plan.units(kind, number)[index]

    def publish(
        self,
        version: int,
        incarnation: int = 1,
        digest: str | None = None,
        *,
        stored: bool = True,
        canary: Canary | None = None,
    ) -> None:
        info = weights_of(version, incarnation, digest, stored=stored)
        self.state = progress.weights_published(self.state, info, self.now, canary)

    def ask(self, rollout: str, holds: int | None = None, units: int = 1, **fields: Any) -> LeaseReply:
        """``fields`` are further ones of the request; what is held has its version's digest unless they say so."""
        digest = None if holds is None else f"digest-{holds}"
        said = {"weight_version": holds, "weights_digest": digest, "max_units": units} | fields
        request = LeaseRequest(rollout_id=rollout, **said)
        self.state, reply = leasing.lease(self.state, request, self.now)
        self.leases |= {name_of(lease.unit): lease for lease in reply.leases}
        return reply

    def lease(self, rollout: str, holds: int | None = None, units: int = 1, **fields: Any) -> list[str]:
        """Short names of what was handed out."""
        return [name_of(lease.unit) for lease in self.ask(rollout, holds, units, **fields).leases]

    def open(self, version: int, **request: Any) -> tuple[Assignment, ...]:
        self.state, reply = transfers.open_transfer(self.state, transfer_request(version, **request), self.now)
        return reply.receivers

    def take(self, step: int, incarnation: int = 1) -> TakeReply:
        self.state, reply = progress.take(self.state, TakeRequest(step=step, incarnation=incarnation))
        assert reply is not None, "the step's manifest has to be read from storage"
        return reply

    def may_start(self, rollout: str) -> bool:
        self.state, reply = turns.start(self.state, TurnRequest(rollout_id=rollout), self.now)
        return reply.may_start

    def beat(self, rollout: str, *held: str | Lease, **fields: Any) -> list[str]:
        """Short names of the leases that are lost."""
        leases = {lease.lease_id: lease for lease in (self.leases[h] if isinstance(h, str) else h for h in held)}
        beat = Heartbeat(rollout_id=rollout, weight_version=None, leases=tuple(leases.values()), **fields)
        self.state, reply = leasing.heartbeat(self.state, beat, self.now)
        return [name_of(leases[lost].unit) for lost in reply.lost]

    def complete(self, name: str, rollout: str = "r0", **shard: Any) -> bool:
        """Whether the shard was accepted; the newest lease's attempt unless given."""
        if name in self.leases:
            shard = {"attempt": self.leases[name].attempt, "version": self.leases[name].weights.version} | shard
        completion = Completion(rollout_id=rollout, lease_id="any", shard=shard_of(self.unit(name), **shard))
        self.state, reply = leasing.complete(self.state, completion, self.now)
        return reply.accepted

    def wait(self, seconds: float) -> None:
        """Let time pass in ticks of a second."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 1.0, until)
            self.state = leasing.tick(self.state, self.now)

    def sleep(self, seconds: float) -> None:
        """The ledger process itself is stopped for that long."""
        self.now += seconds
        self.state = leasing.tick(self.state, self.now)

    def search(self, **stored: list[ShardRef]) -> list[str]:
        """Answer for all suspect units; returns their short names."""
        names = [name_of(unit) for unit in leasing.suspects(self.state)]
        for name in names:
            shards = tuple(stored.get(name.replace(".", "_"), ()))
            self.state = leasing.found(self.state, self.unit(name), shards, self.now)
        return names

    def freeze(self) -> None:
        manifest = progress.step_to_freeze(self.state, self.now)
        assert manifest is not None, "no step is complete"
        self.state = progress.frozen(self.state, manifest, self.now)

    def commit(self, step: int, incarnation: int = 1, **report: Any) -> None:
        message = StepReport(step=step, incarnation=incarnation, weight_version=step + 1, **({"metrics": {}} | report))
        self.state = progress.committed(self.state, message, self.now)

    def do_step(self, step: int) -> None:
        """Generate, freeze and commit a step, and publish what it produced."""
        for name in (f"t{step}.0", f"t{step}.1"):
            self.complete(name)
        self.freeze()
        self.commit(step)
        self.publish(step + 1)

    def drain(self) -> None:
        self.state = progress.drain(self.state, True)

    def adopt(self) -> None:
        self.state = replace(self.state, adopting_until=self.now + LEASE_SECONDS)


# ------------------------------------------------------------------------------------------------ a folder of a run


def claim(store: ObjectStore, run: ResolvedRun) -> RunFolder:
    """What the trainer does before it publishes weights."""
    folder = RunFolder.claim(store, run)
    folder.claim_incarnation(1)
    data = DataManifest(fingerprint="f", num_prompts=5, eval_sets={"held": 2}, total_steps=3, files={})
    store.put_new(layout.DATA_MANIFEST, data.model_dump_json().encode())
    return folder


def store_weights(store: ObjectStore, version: int, incarnation: int = 1, canary: Canary | None = None) -> WeightsInfo:
    info = weights_of(version, incarnation)
    manifest = WeightsManifest(
        version=version, incarnation=incarnation, digest=info.digest, files={}, tensors={}, canary=canary
    )
    store.put_new(layout.manifest_key(info.prefix), manifest.model_dump_json().encode())
    return info


def store_shard(store: ObjectStore, unit: Unit, attempt: int = 1, version: int | None = None) -> ShardRef:
    weight_version = unit.step if version is None else version
    rows = [
        Trajectory(
            run="tiny",
            step=unit.step,
            group_id=group,
            sample_index=sample,
            prompt_id=f"p{prompt}",
            prompt="2+2",
            response="4</answer>",
            prompt_token_ids=(1, 2),
            response_token_ids=(3, 4, 5),
            rollout_logprobs=(-1.0, -0.5, -0.25),
            finish_reason="stop",
            stop_reason="</answer>",
            extracted_answer="4",
            reference_answer="4",
            reward=1.0,
            reward_status="ok",
            weight_version=weight_version,
            engine="fake",
            seconds=0.1,
        )
        for group, prompt, sample in unit.rows()
    ]
    return write_shard(store, unit, attempt, rows, weight_version)
