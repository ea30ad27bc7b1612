"""What a rollout may write, on a fake clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_builders import FakeClock, info_of, lease_of, run_of

from rz_workers.protocol.messages import Heartbeat, HeartbeatReply, Lease
from rz_workers.protocol.schedule import train_units
from rz_workers.rollout.leases import Held, Leases, confirm

UNIT = train_units(run_of(str(Path("/nowhere"))).spec, 5, 0)[0]
FIRST, SECOND = lease_of(UNIT, info_of(0), 1), lease_of(UNIT, info_of(0), 2)


def beat_of(leases: tuple[Lease, ...]) -> Heartbeat:
    return Heartbeat(rollout_id="r", weight_version=0, leases=leases)


@pytest.mark.parametrize(
    ("named", "lost", "sent", "want"),
    [
        pytest.param((FIRST,), (), 110.0, Held(FIRST, 140.0), id="a confirmed lease counts from the sending"),
        pytest.param((FIRST,), (), 90.0, Held(FIRST, 130.0), id="an old heartbeat shortens nothing"),
        pytest.param((FIRST,), (FIRST.lease_id,), 110.0, Held(FIRST, 130.0, True), id="a lost lease"),
        pytest.param((), (), 110.0, Held(FIRST, 130.0), id="a heartbeat that did not name it"),
        pytest.param((SECOND,), (), 110.0, Held(FIRST, 130.0), id="a heartbeat about another one"),
    ],
)
def test_a_heartbeat_renews_or_loses_what_it_names(
    named: tuple[Lease, ...], lost: tuple[str, ...], sent: float, want: Held
) -> None:
    held = {FIRST.lease_id: Held(FIRST, 130.0)}
    assert confirm(held, beat_of(named), HeartbeatReply(lost=lost), sent) == {FIRST.lease_id: want}


def test_a_lost_lease_stays_lost() -> None:
    held = {FIRST.lease_id: Held(FIRST, 130.0, lost=True)}
    assert confirm(held, beat_of((FIRST,)), HeartbeatReply(), 110.0) == held


class Desk:
    """A ledger whose answer takes ``delay`` seconds."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.delay = 0.0
        self.lost: tuple[str, ...] = ()
        self.beats = 0
        self.on_beat: Callable[[], None] = lambda: None
        self.leases = Leases(self, beat_of, self.clock)
        self.leases.hold(FIRST, self.clock.now)

    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        self.beats += 1
        self.on_beat()
        self.clock.now += self.delay
        return HeartbeatReply(lost=self.lost)


def test_before_the_deadline_nobody_is_asked() -> None:
    desk = Desk()
    desk.clock.now += 29.9
    assert desk.leases.is_held(FIRST)
    assert desk.beats == 0


def test_past_the_deadline_the_ledger_decides() -> None:
    desk = Desk()
    desk.clock.now += 30.0
    assert desk.leases.is_held(FIRST)
    desk.clock.now += 30.0
    desk.lost = (FIRST.lease_id,)
    assert not desk.leases.is_held(FIRST)
    assert desk.beats == 2


def test_an_answer_that_took_longer_than_the_lease_is_asked_for_again() -> None:
    """The process was frozen between sending the heartbeat and reading its answer."""
    desk = Desk()
    desk.clock.now += 30.0
    desk.delay = 31.0

    def thaw() -> None:
        if desk.beats == 2:
            desk.delay, desk.lost = 0.0, (FIRST.lease_id,)

    desk.on_beat = thaw
    assert not desk.leases.is_held(FIRST)
    assert desk.beats == 2


def test_a_heartbeat_that_fails_does_not_end_the_thread() -> None:
    desk, stop, again = Desk(), threading.Event(), threading.Event()

    def fail_twice() -> None:
        if desk.beats <= 2:
            raise RuntimeError("the ledger answered nonsense")
        again.set()

    desk.on_beat = fail_twice
    thread = desk.leases.start_thread(lease_seconds=0.01, stop=stop)
    assert again.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_lease_counts_from_the_request_so_that_a_freeze_in_the_long_poll_is_noticed() -> None:
    desk = Desk()
    asked = desk.clock.now
    desk.clock.now += 31.0  # frozen while the answer lay in the socket
    desk.lost = (SECOND.lease_id,)
    desk.leases.hold(SECOND, asked)
    assert not desk.leases.is_held(SECOND)
    assert desk.beats == 1
