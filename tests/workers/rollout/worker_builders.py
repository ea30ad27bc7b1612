"""A run's folder without a trainer, and stand-ins for everything that a rollout worker talks to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry
from rollout_builders import build_model

from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.data.prompt_table import PreparedData, PromptRow, fingerprint, publish_data
from rz_workers.protocol.messages import (
    Canary,
    Completion,
    CompletionReply,
    Heartbeat,
    HeartbeatReply,
    Lease,
    LeaseReply,
    LeaseRequest,
    ReceiverState,
    TransferOrder,
    Verdict,
    VerifyItem,
    WeightsInfo,
    WeightsReply,
)
from rz_workers.protocol.schedule import Unit, eval_units, train_units
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.rollout.engines.interface import Finished, SampleRequest, SamplingParams
from rz_workers.rollout.main import Rollout
from rz_workers.rollout.metrics import RolloutMetrics
from rz_workers.rollout.scoring import Scorer
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import decode

LEASE_SECONDS = 30.0


def run_of(uri: str, lease_seconds: float = LEASE_SECONDS) -> ResolvedRun:
    """Steps of 2 prompt groups x 2 samples in one unit; one evaluation set of 2 problems x 1 sample."""
    spec: dict[str, Any] = {
        "model": {"name": "m"},
        "data": {"train": [{"uri": "d.jsonl"}], "eval": [{"name": "held", "uri": "h.jsonl"}]},
        "storage": {"uri": uri},
        "algorithm": {"totalSteps": 3, "promptsPerStep": 2, "samplesPerPrompt": 2, "seed": 5},
        "trainer": {"gpusPerNode": 0, "dtype": "float32"},
        "rollout": {
            "engine": "transformers",
            "samplesPerLease": 2,
            "groupsPerLease": 2,
            "leaseSeconds": lease_seconds,
            "maxModelLength": 128,
            "sampling": {"maxNewTokens": 16, "stop": ["</answer>"], "temperature": 0.9},
        },
        "evaluation": {"interval": 1, "samples": 1, "temperature": 0.7, "topP": 0.8},
    }
    return ResolvedRun(name="tiny", uid="uid-1", spec=ReasonerZeroRunSpec.model_validate(spec))


def prompt(number: int, name: str = "p") -> PromptRow:
    of_source = ("file", "choice", f"question {number}", f'{{"number": {number}}}')
    return PromptRow(f"{name}{number}", f"w{number} w1", (number, 1), f"answer {number}", *of_source)


def make_folder(path: Path, run: ResolvedRun) -> RunFolder:
    """What the trainer sets up: claim, prompts, model files."""
    folder = RunFolder.claim(ObjectStore(run.spec.storage.uri), run)
    train = tuple(prompt(number) for number in range(2, 7))
    held = tuple(prompt(number, "h") for number in range(7, 9))
    publish_data(folder, run.spec, PreparedData(train, {"held": held}, (), fingerprint(train)))
    local = path / "model-files"
    build_model(local)
    folder.store_folder(layout.MODEL_PREFIX, local, {})
    return folder


def train_unit(folder: RunFolder, step: int = 0) -> Unit:
    return train_units(folder.run.spec, 5, step)[0]


def eval_unit(folder: RunFolder, version: int = 0) -> Unit:
    return eval_units(folder.run.spec, version, "held", 2)[0]


def lease_of(unit: Unit, info: WeightsInfo, attempt: int = 1, seconds: float = LEASE_SECONDS) -> Lease:
    return Lease(lease_id=f"{unit.unit_id}-a{attempt}", unit=unit, attempt=attempt, weights=info, seconds=seconds)


def info_of(version: int, digest: str | None = None) -> WeightsInfo:
    return WeightsInfo(
        version=version, digest=digest or f"digest-{version}", incarnation=1, prefix=layout.weights_prefix(version, 1)
    )


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeLedger:
    """Hands out what is queued, then says that the run is finished. Notes what it is told."""

    def __init__(self, *replies: LeaseReply) -> None:
        self.replies = list(replies)
        self.requests: list[LeaseRequest] = []
        self.beats: list[Heartbeat] = []
        self.completions: list[Completion] = []
        self.lost: tuple[str, ...] = ()
        self.accepts = True
        self.canary: Canary | None = None

    def lease(self, request: LeaseRequest) -> LeaseReply:
        self.requests.append(request)
        return self.replies.pop(0) if self.replies else LeaseReply(finished=True)

    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        self.beats.append(beat)
        return HeartbeatReply(lost=self.lost)

    def complete(self, completion: Completion) -> CompletionReply:
        self.completions.append(completion)
        return CompletionReply(accepted=self.accepts)

    def weights(self, version: int) -> WeightsReply:
        return WeightsReply(weights=info_of(version), canary=self.canary)


class FakeReward:
    """Reward 1 for responses that end in an even token; ``before`` runs before each answer."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.items: list[VerifyItem] = []
        self.before = before
        self.said: str | None = None
        """Its trouble."""

    def verify(self, items: Sequence[VerifyItem]) -> tuple[Verdict, ...]:
        self.before()
        self.items += items
        return tuple(verdict_of(item) for item in items)

    def trouble(self) -> str | None:
        return self.said


def verdict_of(item: VerifyItem) -> Verdict:
    """Told by the text alone, so that a verdict that reaches the wrong row shows."""
    return Verdict(reward=float(len(item.response) % 2), status="ok", extracted_answer=item.response, cpu_seconds=0.0)


class FakeEngine:
    """Two or three tokens a row, told by its seed; rows finish in reverse order. ``between`` runs before each row."""

    name = "fake 1"
    hardware = "fake"
    receiver = ReceiverState(workers=1)

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        self.weight_version: int | None = None
        self.loads: list[tuple[int, str]] = []
        self.params: list[SamplingParams] = []
        self.between = between
        self.is_asleep = False
        self.received: list[TransferOrder] = []

    def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        assert self.weight_version is not None
        return tuple(-1.0 - 1e-4 * self.weight_version for _ in token_ids[1:])

    def receive_weights(self, order: TransferOrder) -> str:
        assert not self.is_asleep
        self.received.append(order)
        self.weight_version = order.version
        return f"digest-{order.version}"

    def sleep(self) -> None:
        self.is_asleep = True

    def wake(self) -> None:
        self.is_asleep = False

    def load_weights(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        self.weight_version = version
        self.loads.append((version, ",".join(tensors)))

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, cancelled: Callable[[], bool]
    ) -> Iterator[Finished]:
        assert not self.is_asleep
        self.params.append(params)
        for index in reversed(range(len(requests))):
            self.between()
            if cancelled():
                return
            tokens = (requests[index].seed % 40, *requests[index].prompt_token_ids)[: 2 + index % 2]
            stopped = index % 2 == 0
            yield Finished(
                index=index,
                token_ids=tokens,
                logprobs=(-0.5,) * len(tokens),
                text=" ".join(f"w{token}" for token in tokens),
                finish_reason="stop" if stopped else "length",
                stop_reason="</answer>" if stopped else None,
            )


class Worker:
    """A rollout worker among stand-ins; ``run`` works through the ledger's replies."""

    def __init__(self, folder: RunFolder, *replies: LeaseReply, **changes: Any) -> None:
        self.folder = folder
        self.ledger = FakeLedger(*replies)
        self.reward = FakeReward()
        self.engine = FakeEngine()
        self.clock = FakeClock()
        self.stop = threading.Event()
        self.registry = CollectorRegistry()
        self.load: Callable[[RunFolder, WeightsInfo], Mapping[str, torch.Tensor]] = lambda _, info: {
            info.digest: torch.zeros(1)
        }
        vars(self).update(changes)

    def run(self) -> None:
        self.rollout = Rollout(
            "rollout-0-test",
            self.folder,
            self.engine,
            self.ledger,
            Scorer(self.reward),
            self.stop,
            RolloutMetrics(self.registry),
            {},
            self.load,
            self.clock,
        )
        self.rollout.run()

    def units(self, outcome: str) -> float:
        return self.registry.get_sample_value("rz_rollout_units_total", {"outcome": outcome}) or 0.0

    def shards(self) -> list[str]:
        return [key for key in self.folder.store.list("") if key.endswith(".parquet") and not key.startswith("data/")]

    def rows(self, key: str) -> list[Trajectory]:
        return decode(self.folder.store.get(key))
