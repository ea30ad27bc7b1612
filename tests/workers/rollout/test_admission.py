"""How many units are under way: one, or as many as the engine has room for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from worker_builders import FakeEngine, Worker, eval_unit, info_of, lease_of, make_folder, run_of, train_unit

from rz_workers.protocol.messages import LeaseReply
from rz_workers.rollout.admission import OneAtATime, SideBySide, units_for
from rz_workers.rollout.engines.interface import Finished, SampleRequest, SamplingParams
from rz_workers.rollout.engines.vllm.load import LoadGauge, has_room

PATIENCE = 30.0


@pytest.mark.parametrize(
    ("rows", "running", "blocks_in_use", "want"),
    [
        pytest.param(0, 0, 0.0, True, id="an idle engine"),
        pytest.param(0, 7, 0.95, True, id="an idle engine whose last figures are old"),
        pytest.param(16, 16, 0.1, True, id="all rows run and blocks are free"),
        pytest.param(16, 0, 0.0, False, id="rows that the scheduler has not seen yet"),
        pytest.param(300, 256, 0.3, False, id="rows wait for a place in the batch"),
        pytest.param(64, 64, 0.8, False, id="few blocks are left"),
        pytest.param(15, 16, 0.1, True, id="a row ended since the figures were taken"),
    ],
)
def test_when_an_engine_has_room(rows: int, running: int, blocks_in_use: float, want: bool) -> None:
    assert has_room(rows, running, blocks_in_use) is want


def test_the_gauge_counts_rows_until_they_end() -> None:
    gauge = LoadGauge()
    gauge.add(2)
    assert not gauge.has_room()
    gauge.note(2, 0.1)
    assert gauge.has_room()
    gauge.note(1, 0.1)
    assert not gauge.has_room()
    gauge.add(-2)
    assert gauge.has_room()


def test_an_engine_is_stuck_while_there_are_rows_and_no_token_comes() -> None:
    now = [100.0]
    gauge = LoadGauge(clock=lambda: now[0])

    def after(seconds: float) -> float:
        now[0] += seconds
        return gauge.stuck_seconds()

    assert after(50) == 0, "nothing to do"
    gauge.add(2)
    assert after(30) == 30
    gauge.note_tokens(0)
    gauge.add(1)
    assert after(10) == 40, "neither empty steps nor further rows are progress"
    gauge.note_tokens(1)
    assert after(5) == 5
    gauge.add(-3)
    assert after(70) == 0
    gauge.add(1)
    assert after(1) == 1, "the time without rows does not count"


def test_units_that_are_sampled_but_not_stored_do_not_hold_up_new_weights() -> None:
    units = SideBySide(lambda: True)
    stored = threading.Event()

    def unit(sampled: Callable[[], None]) -> None:
        sampled()
        assert stored.wait(PATIENCE)

    units.start("a", unit)
    units.wait_until_sampled()
    assert units.are_under_way
    stored.set()
    units.join()
    assert not units.are_under_way


def test_no_more_than_so_many_units_are_under_way_however_much_room_there_is() -> None:
    units = SideBySide(lambda: True, max_units=2)
    release = threading.Event()

    def unit(sampled: Callable[[], None]) -> None:
        sampled()
        assert release.wait(PATIENCE)

    for name in "ab":
        units.wait_for_room()
        units.start(name, unit)
    waited = threading.Thread(target=units.wait_for_room, daemon=True)
    waited.start()
    waited.join(0.1)
    assert waited.is_alive()
    release.set()
    waited.join(PATIENCE)
    assert not waited.is_alive()


@pytest.mark.parametrize("wait", ["wait_for_room", "wait_until_sampled", "join"])
def test_the_failure_of_a_unit_is_raised_by_the_next_wait(wait: str) -> None:
    units = SideBySide(lambda: False)

    def fail(_sampled: object) -> None:
        raise RuntimeError("422 not a VerifyRequest")

    units.start("a", fail)
    with pytest.raises(RuntimeError, match="422"):
        getattr(units, wait)()


def test_an_engine_with_one_batch_at_a_time_gets_one_unit_at_a_time() -> None:
    assert isinstance(units_for(FakeEngine()), OneAtATime)


# ----------------------------------------------------------------------------------------------- with the main path


class FakeConcurrentEngine(FakeEngine):
    """Says that it has room while fewer than ``most`` calls run; no call yields before ``most`` were begun."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.running: set[int] = set()
        self.begun = 0
        self.seen_together = 0
        self.full = threading.Event()
        self.loads_beside: list[int] = []

    def has_room(self) -> bool:
        return len(self.running) < self.most

    def close(self) -> None:
        pass

    def load_weights(self, version: int, tensors: object) -> None:
        self.loads_beside.append(len(self.running))
        super().load_weights(version, tensors)  # type: ignore[arg-type]

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, cancelled: Callable[[], bool]
    ) -> Iterator[Finished]:
        self.begun += 1
        self.running.add(self.begun)
        self.seen_together = max(self.seen_together, len(self.running))
        if self.begun >= self.most:
            self.full.set()
        return self._later(self.begun, super().generate(requests, params, cancelled))

    def _later(self, call: int, responses: Iterator[Finished]) -> Iterator[Finished]:
        assert self.full.wait(PATIENCE)
        yield from responses
        self.running.discard(call)


def test_units_are_taken_while_the_engine_has_room_and_new_weights_wait_for_them(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, run_of(str(tmp_path / "run")))
    units = [train_unit(folder), eval_unit(folder)]
    leases = [lease_of(unit, info_of(0)) for unit in units] + [lease_of(train_unit(folder, 1), info_of(1))]
    engine = FakeConcurrentEngine(most=2)
    worker = Worker(folder, *(LeaseReply(leases=(lease,)) for lease in leases), engine=engine)
    worker.run()
    assert worker.units("stored") == 3
    assert engine.seen_together == 2
    assert engine.loads == [(0, "digest-0"), (1, "digest-1")]
    assert engine.loads_beside == [0, 0]
    assert sorted(worker.shards()) == sorted(lease.unit.shard_key(1) for lease in leases)


def test_the_failure_of_one_of_several_units_ends_the_process(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, run_of(str(tmp_path / "run")))
    worker = Worker(folder, LeaseReply(leases=(lease_of(train_unit(folder), info_of(0)),)))
    worker.engine = FakeConcurrentEngine(most=1)

    def refuse() -> None:
        raise RuntimeError("422 not a VerifyRequest")

    worker.reward.before = refuse
    with pytest.raises(RuntimeError, match="422"):
        worker.run()
    assert worker.shards() == []
