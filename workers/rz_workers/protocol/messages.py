"""All sides use these models, and a field that one of them does not know is refused, never passed over.

The messages between rollouts, trainer, reward and ledger; JSON over HTTP.

============================  =================  ==============================  =============================
route (bearer token)          who calls          request -> reply                blocks until
============================  =================  ==============================  =============================
POST /lease                   rollout            LeaseRequest -> LeaseReply      a unit is free, or wait_seconds
POST /heartbeat               rollout            Heartbeat -> HeartbeatReply     -
POST /complete                rollout            Completion -> CompletionReply   -
GET  /weights/{version}       rollout            -> WeightsReply                 -
POST /weights                 trainer            Publication -> Ack              -
POST /transfer/open           trainer            TransferRequest -> ...Reply     -
POST /turn                    rollout            TurnRequest -> TurnReply        -
POST /step/take               trainer            TakeRequest -> TakeReply        the step is complete, or wait_seconds
POST /step/commit             trainer            StepReport -> Ack               -
GET  /eval/{version}          trainer            -> EvalReply                    -
POST /drain                   operator, trainer  DrainRequest -> Ack             -
POST /storage                 rollout, trainer   StorageReport -> Ack            -
POST /verifier                reward             CodeRequest -> CodeReply        -
GET  /status /metrics         anyone, no token   -> LedgerStatus / text          (read-only port)
POST /verify                  rollout            VerifyRequest -> VerifyReply    (the reward service) verdicts are there
============================  =================  ==============================  =============================

``/healthz``, ``/status`` and ``/metrics`` are on the read-only port of every role.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rz_api.learning import Sign
from rz_workers.protocol.schedule import Unit

RewardStatus = Literal["ok", "no_answer", "truncated", "timeout", "memory", "crashed"]
"""``ok``: an answer was found and compared. ``no_answer``: nothing to extract. ``truncated``: the response did not
end by a stop. ``timeout``, ``memory``: the verdict took its whole limit of CPU time or memory. All but ``ok`` have
reward 0. ``crashed``: the verifier died of something else, again and again; there is no reward, and the sample is
masked: left out of advantages, losses and means (``is_masked``)."""


def is_masked(status: str) -> bool:
    """Whether a sample of this reward status has no reward and counts nowhere, whatever its row holds as one."""
    return status == "crashed"


class Message(BaseModel):
    """Base of all messages: unknown fields refused, values frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ack(Message):
    """Nothing to say but that it was taken."""


# ------------------------------------------------------------------------------------------------------- weights


class WeightsInfo(Message):
    """A published weight version: its number, the digest of its tensors, and where it is."""

    version: int
    """Completed policy updates; 0 is the base model."""
    digest: str
    """sha256 over names, dtypes, shapes and bytes of all tensors (``rz_workers.storage.weights``)."""
    incarnation: int
    prefix: str
    """Folder in the run's storage, e.g. ``weights/v000013-i1``."""
    stored: bool = True
    """Whether the tensors are there; False as long as they only went out by broadcast."""


class Canary(Message):
    """Scores of a fixed token sequence, by which an engine proves which weights it computes with."""

    token_ids: tuple[int, ...]
    """[T]"""
    logprobs: tuple[float, ...]
    """[T - 1] float32 log-probs of tokens 1.. by the trainer's forward pass, at temperature 1."""


class Publication(Message):
    """The trainer's word that a version may be sampled with; once more when it is ``stored``."""

    weights: WeightsInfo
    canary: Canary | None = None


class WeightsReply(Message):
    """A published version and its canary; None where the ledger does not know it (any more)."""

    weights: WeightsInfo | None
    canary: Canary | None = None


class Proof(Message):
    """What a rollout's engine made of the canary with the weights that it holds."""

    digest: str
    """Of those weights."""
    bits: str
    """sha256 (hex) of the log-probs' float32 bytes."""
    hardware: str
    """Engines with the same one have to agree to the bit."""
    error: float
    """Mean distance of its log-probs from the trainer's, nats."""


# ----------------------------------------------------------------------------------------------------- broadcasts

Backend = Literal["gloo", "nccl", "shared"]
"""What carries the bytes of a broadcast; ``shared``: memory that both processes map (CUDA IPC on GPUs)."""


class ReceiverState(Message):
    """What a rollout that can receive broadcasts has to receive with."""

    workers: int
    """Processes of its engine, each of which receives everything."""
    group: str | None = None
    """The group that they are connected to."""
    near: int | None = None
    """The trainer rank whose device it shares (placement ``colocated``): only that one can send to it."""


class TransferOrder(Message):
    """To one rollout: receive this version before anything else."""

    version: int
    incarnation: int
    """Of the gang that sends."""
    group: str
    host: str
    port: int
    """Where the sender's store listens."""
    backend: Backend
    workers: int
    seconds: float
    """Longest time for joining the group, and for each bucket."""


class Endpoint(Message):
    host: str
    port: int


class TransferRequest(Message):
    """The trainer is about to broadcast a version: who takes part?"""

    incarnation: int
    version: int
    backend: Backend
    senders: tuple[Endpoint, ...]
    """Of every rank."""
    groups: tuple[str, ...]
    """Groups that stand on the trainer's side."""
    seconds: float


class Assignment(Message):
    """One rollout of a broadcast and the rank that sends to it."""

    rollout_id: str
    sender: int
    """Index of ``TransferRequest.senders``."""
    workers: int
    group: str
    is_new: bool
    """Whether the group has to be formed first."""


class TransferReply(Message):
    receivers: tuple[Assignment, ...]
    left_out: int = 0
    """Other live rollouts: they will look for the version in storage."""


class TurnRequest(Message):
    rollout_id: str


class TurnReply(Message):
    """Placement ``colocated``: whether a rollout may build its engine on the device that the trainer uses too."""

    may_start: bool


# -------------------------------------------------------------------------------------------------------- leases


class Lease(Message):
    """The right, for a time, to sample one unit with one weight version."""

    lease_id: str
    unit: Unit
    attempt: int
    """1, 2, ...: names the shard, enters no seed."""
    weights: WeightsInfo
    """Version to sample with; for evaluation it may be older than the newest."""
    seconds: float
    """Validity from receipt and from every heartbeat that confirms it."""


class LeaseRequest(Message):
    rollout_id: str
    """Unique per process start, e.g. ``rollout-0-5f2c``."""
    weight_version: int | None
    """Version that the engine holds; None before the first load."""
    weights_digest: str | None = None
    """Its digest."""
    proof: Proof | None = None
    """Of that version, once it is proven."""
    receiver: ReceiverState | None = None
    """None: broadcasts cannot be received."""
    asleep: bool = False
    """Whether the engine has freed its device (placement ``colocated``)."""
    max_units: int = 1
    """How many units the engine has room for."""
    wait_seconds: float = 20.0
    """Longest time that the ledger may hold the request."""


class LeaseReply(Message):
    """Leases, or what has to be done first."""

    leases: tuple[Lease, ...] = ()
    finished: bool = False
    """The run is complete: the rollout may end with exit code 0."""
    draining: bool = False
    """Take no further lease; finish or drop what is held."""
    receive: TransferOrder | None = None
    """Take part in this broadcast."""
    prove: WeightsInfo | None = None
    """Hold these weights and score their canary: the next leases want them."""
    reload: WeightsInfo | None = None
    """Peers score the canary of these weights otherwise: load them in full from storage and prove them again."""
    replace: bool = False
    """Peers still do: end, so that another process takes the place."""
    sleep: bool = False
    """Free the device: it is the trainer's turn (placement ``colocated``)."""


class Heartbeat(Message):
    """What a rollout holds. A restarted ledger adopts these leases before it issues new ones."""

    rollout_id: str
    weight_version: int | None
    leases: tuple[Lease, ...] = ()
    asleep: bool = False
    tokens_generated: int = 0
    """Response tokens sampled by this process so far."""
    reward_trouble: str | None = None
    """Why it has been waiting for verdicts for long, as words for people; None where it has not."""


class HeartbeatReply(Message):
    lost: tuple[str, ...] = ()
    """Ids of leases that are not valid any more: stop sampling them and write nothing."""
    finished: bool = False
    draining: bool = False


class ShardStats(Message):
    """Sums over the rows of a shard, for progress only."""

    reward_sum: float = 0.0
    """Of the rows that are not masked."""
    response_tokens: int = 0
    truncated: int = 0
    masked: int = 0
    """Rows without a reward (``is_masked``)."""


class ShardRef(Message):
    """One stored shard: the ledger's and the trainer's handle on trajectories."""

    unit: Unit
    attempt: int
    key: str
    sha256: str
    size_bytes: int
    rows: int
    weight_version: int
    stats: ShardStats = ShardStats()


class Completion(Message):
    rollout_id: str
    lease_id: str
    shard: ShardRef


class CompletionReply(Message):
    accepted: bool
    """False: another completion of the unit was recorded first; this shard will not be used."""


# --------------------------------------------------------------------------------------------------------- steps


class TakeRequest(Message):
    step: int
    incarnation: int
    wait_seconds: float = 20.0
    weights: Publication | None = None
    """What this gang has announced last: a restarted ledger does not find in storage what is not stored yet."""


class TakeReply(Message):
    """The shards of a complete step in canonical order, frozen in ``trajectories/step-…/manifest.json``; None while
    some unit is missing."""

    shards: tuple[ShardRef, ...] | None
    units_done: int
    units_total: int
    draining: bool = False


class StepReport(Message):
    """The trainer's word that a step is committed in storage, with the figures that people watch."""

    step: int
    incarnation: int
    weight_version: int
    metrics: dict[str, float]
    checkpoint_step: int | None = None
    phase: Literal["training", "exporting", "finished"] = "training"


class EvalReply(Message):
    """The shards of a finished evaluation in canonical order; None while some unit is missing."""

    shards: tuple[ShardRef, ...] | None
    units_done: int
    units_total: int
    started: float | None = None
    """Unix seconds of the first lease; None when the ledger was restarted since."""
    finished: float | None = None
    """Unix seconds of the last completion; None while some unit is missing, or as above."""


class DrainRequest(Message):
    draining: bool = True


class StorageReport(Message):
    """What one process sees of the run's storage; told when it changes, and again while it lasts."""

    who: str
    """``trainer-0``, ``rollout-3``."""
    trouble: str | None
    """A sentence for people, with the storage's name; None: all is well again."""


class CodeRequest(Message):
    verifier: str
    """Its name in the spec: ``s3://bucket/rewards.py:grade``."""


class CodeReply(Message):
    """The file of a verifier of the user's own, as it was when the run started."""

    code: str
    sha256: str


# -------------------------------------------------------------------------------------------------------- status


class RolloutStatus(Message):
    rollout_id: str
    weight_version: int | None
    leases: int
    tokens_generated: int
    last_heartbeat_seconds_ago: float
    asleep: bool = False
    proof: Literal["none", "agrees", "disagrees"] = "none"
    """Of the weights that it holds, compared with its peers' on the same hardware."""


class LedgerStatus(Message):
    """Progress for the operator, the live view and people. Never an input to a decision about correctness."""

    run: str
    phase: Literal["waiting", "adopting", "running", "draining", "finished"]
    """``waiting``: the trainer has not published version 0 yet. ``adopting``: restarted, listening for live leases."""
    step: int
    """The step that is being generated or trained: committed steps so far."""
    total_steps: int | None
    weight_version: int | None
    incarnation: int | None
    units_done: int
    units_total: int
    units_leased: int
    eval_units_done: int = 0
    eval_units_total: int = 0
    rollouts: tuple[RolloutStatus, ...] = ()
    metrics: dict[str, float] = {}
    """Of the newest committed step."""
    evaluation: dict[str, float] = {}
    """Newest accuracy of each evaluation set."""
    last_checkpoint_step: int | None = None
    tokens_generated: int = 0
    expired_leases: int = 0
    last_progress_seconds_ago: float = 0.0
    blocking_role: Literal["none", "rollout", "trainer", "reward", "storage"] = "none"
    storage_trouble: str | None = None
    """What is wrong with the run's storage, as a sentence for people; None where nothing is known to be."""
    reward_trouble: str | None = None
    """Which rollouts have been waiting for the reward service for long, and its last error, as a sentence."""
    fruitless_steps: int = 0
    """Steps in a row, up to the newest committed one, from which nothing could be learned. A ledger that was restarted
    looks back 20 steps."""
    fruitless_sign: Sign | None = None
    """How that shows in the newest of them; ``rz_api.learning`` says what it means."""
    seconds_per_step: float | None = None
    eta_seconds: float | None = None


# -------------------------------------------------------------------------------------------------------- reward


class VerifyItem(Message):
    response: str
    """The response's text, the stop string included; the prompt ends in ``<think>``."""
    reference_answer: str
    stopped: bool
    """Whether the response ended by a stop string or EOS (not by length)."""
    verifier: str = ""
    """Name of the verifier of the prompt's source (``rz_api.verifiers``); empty takes the run's."""
    question: str = ""
    """As in the data, without the template."""
    fields: dict[str, Any] = {}
    """The record's other fields."""


class VerifyRequest(Message):
    items: tuple[VerifyItem, ...]


class Verdict(Message):
    reward: float
    """In [0, 1]; 1.0 or 0.0 but from a verifier of somebody's own."""
    status: RewardStatus
    rule: str = ""
    """By which rule of the verifier it was decided; empty where it has none."""
    extracted_answer: str | None
    cpu_seconds: float


class VerifyReply(Message):
    verdicts: tuple[Verdict, ...]
