"""Every rollout that the trainer is told to wait for gets at most one order, and nobody else any.

Who takes part in a broadcast of weights, as pure functions of (state, event, now). ``leasing`` hands out the orders,
``service`` opens them for the trainer (decision 7).

A broadcast is open from the trainer's request until the version is announced, another one is opened, or a newer gang
appears. Each participant gets its order once, before anything else: whoever misses it, or fails at it, is without the
version until it is in storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rz_workers.ledger.progress import require_newest
from rz_workers.ledger.state import RefusedError, State, Transfer
from rz_workers.protocol.messages import Assignment, LeaseRequest, TransferOrder, TransferReply, TransferRequest

__all__ = ["holds_what_is_sent", "open_transfer", "take_order"]


def open_transfer(state: State, request: TransferRequest, now: float) -> tuple[State, TransferReply]:
    """Assign every live rollout that can receive, and holds no lease, to a rank of the trainer; none while the run is
    draining.

    Who is in the middle of a unit (an evaluation of the version before, mostly) is not waited for by all others: it
    will look for the version in storage. A rollout keeps the group that both sides have, and with it its sender; a new
    one goes to the rank that shares its device, else to the one with the fewest (from the start: rollout i of W senders
    to i mod W). The same request again has the same answer, and nobody is told twice.

    Raises SupersededError for a trainer that is not of the newest incarnation, RefusedError without senders and for a
    version that the run does not have.
    """
    state = require_newest(state, request.incarnation)
    if not request.senders:
        raise RefusedError(f"a broadcast of version {request.version} was asked for, with no rank that sends")
    if not 0 <= request.version <= state.plan.total_steps:
        raise RefusedError(
            f"a broadcast of version {request.version} was asked for; this run has versions 0 to "
            f"{state.plan.total_steps}, one per policy update"
        )
    if state.transfer is not None and state.transfer.request == request:
        return state, state.transfer.reply
    is_ending = state.draining or state.finished
    there = state.live_rollouts()
    busy = {e.held.rollout_id for batch in state.open_batches() for e in batch.entries.values() if e.held is not None}
    receivers = {
        rollout_id: rollout.receiver
        for rollout_id, rollout in there.items()
        if rollout.receiver is not None and rollout_id not in busy and not rollout.is_replaced and not is_ending
    }
    standing = {
        rollout_id: receiver.group
        for rollout_id, receiver in receivers.items()
        if receiver.group is not None and receiver.group in request.groups and receiver.group in state.groups
    }
    groups = {group: state.groups[group] for group in standing.values()}
    assignments = []
    for rollout_id, receiver in receivers.items():
        group = standing.get(rollout_id)
        is_new = group is None
        if group is None:
            sender = receiver.near if receiver.near is not None else _least_busy(groups, len(request.senders))
            # The rank beside it does not send, and no other one can: it loads the version from storage.
            if not 0 <= sender < len(request.senders):
                continue
            # With the time in it: a group that was dropped and is formed again must not find the old one's keys.
            group = f"i{request.incarnation}-v{request.version}-{rollout_id}-{round(now * 1000):x}"
            groups[group] = sender
        assignments.append(
            Assignment(
                rollout_id=rollout_id, sender=groups[group], workers=receiver.workers, group=group, is_new=is_new
            )
        )
    reply = TransferReply(receivers=tuple(assignments), left_out=len(there) - len(assignments))
    transfer = Transfer(request, reply, {one.rollout_id: _order(one, request) for one in assignments})
    return replace(state, transfer=transfer, groups=groups), reply


def take_order(state: State, rollout_id: str) -> tuple[State, TransferOrder | None]:
    """The rollout's order, the first time that it is asked for; it is awake from then on."""
    if state.transfer is None or rollout_id not in state.transfer.orders:
        return state, None
    orders = dict(state.transfer.orders)
    order = orders.pop(rollout_id)
    state = replace(state, transfer=replace(state.transfer, orders=orders))
    return state.with_rollout(rollout_id, replace(state.rollouts[rollout_id], asleep=False)), order


def holds_what_is_sent(state: State, request: LeaseRequest) -> bool:
    """Whether the rollout has received the version that is still being sent to others. It waits for its announcement:
    a lease of an older version would make it load that one again."""
    if state.transfer is None or request.weights_digest is None:
        return False
    known = state.weights.get(state.transfer.version)
    is_announced = known is not None and known.digest == request.weights_digest
    return request.weight_version == state.transfer.version and not is_announced


def _least_busy(groups: Mapping[str, int], senders: int) -> int:
    served = list(groups.values())
    return min(range(senders), key=lambda sender: (served.count(sender), sender))


def _order(assignment: Assignment, request: TransferRequest) -> TransferOrder:
    sender = request.senders[assignment.sender]
    return TransferOrder(
        version=request.version,
        incarnation=request.incarnation,
        group=assignment.group,
        host=sender.host,
        port=sender.port,
        backend=request.backend,
        workers=assignment.workers,
        seconds=request.seconds,
    )
