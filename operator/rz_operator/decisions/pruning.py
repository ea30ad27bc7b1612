"""What is remembered of members stays small, however many there are and whatever became of them.

``decide`` calls ``pruned`` at its end, because the status must fit into an object of the API server (and every look
writes, and every watch reads, the whole of it). ``RunStatus.to_dict`` writes members of equal states as one entry, so
few *different* states are what counts:

| an entry that                                                            | is                                    |
|--------------------------------------------------------------------------|---------------------------------------|
| says what would be assumed without it                                    | dropped                               |
| is of a member beyond the wanted count of which nothing exists any more  | dropped                               |
| has a wait that has been over for SETTLED_SECONDS                        | rid of that wait                      |
| belongs to one of more than MAX_STATES different states                  | made coarser (``_coarse``)            |

No number of a pod that may still be there is given out again: an entry with a higher incarnation than 1 is dropped only
where nothing of its member exists, or where its pod does, whose label says the number (``decide`` adopts it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

from rz_api.status import MemberState
from rz_operator.decisions.look import Look
from rz_operator.decisions.members import NEVER_FAILED

MAX_STATES = 128
"""Different states of members that are told apart; 10,000 rollouts in as many states are some 55 KB."""

SETTLED_SECONDS = 60.0


def pruned(look: Look) -> Look:
    """``look`` with a status whose ``members`` are no more than needed."""
    members = look.status.members
    if not members:
        return look
    there = {member.key for member in look.seen.members}
    counts = {wanted.role: wanted.count for wanted in look.wanted.roles}
    kept: dict[str, MemberState] = {}
    for key, entry in members.items():
        role, _, index = key.rpartition("-")
        if key not in there and not any(role == each and int(index) < count for each, count in counts.items()):
            continue
        if 0 < entry.not_before < look.now - SETTLED_SECONDS:
            entry = entry.model_copy(update={"not_before": 0.0})
        if entry != NEVER_FAILED:
            kept[key] = entry
    if len(kept) > MAX_STATES and len({_state(entry) for entry in kept.values()}) > MAX_STATES:
        current = {member.key for member in look.seen.members if look.is_current(member)}
        kept = _coarse(kept, current)
    return look if kept == members else look.change(members=kept)


def _coarse(members: Mapping[str, MemberState], current: Set[str]) -> dict[str, MemberState]:
    """Fewer than MAX_STATES different states, each on the safe side: no incarnation is used again, and no failure is
    counted twice (rather one too few). Only a run whose members each have a history of their own comes here.

    ``current``: those of which the pod that should exist does. An older pod says nothing, and its end was counted.
    """
    absent = [entry for key, entry in members.items() if key not in current]
    one_for_all = MemberState(
        incarnation=max((entry.incarnation for entry in absent), default=1),
        failures=min((entry.failures for entry in absent), default=0),
        ends_in_a_row=min((entry.ends_in_a_row for entry in absent), default=0),
        not_before=max((entry.not_before for entry in absent), default=0.0),
    )
    counted = Counter(_state(entry) for key, entry in members.items() if key in current)
    common = {state for state, _ in counted.most_common(MAX_STATES // 2)}
    found: dict[str, MemberState] = {}
    for key, entry in members.items():
        if key not in current:
            found[key] = one_for_all
        elif _state(entry) in common:
            found[key] = entry
        elif entry.incarnation == 1:
            # Rounded up: of a pod's restarts those that were counted are never fewer than it says.
            seen = entry.restarts_seen
            found[key] = MemberState(restarts_seen=1 << (seen - 1).bit_length() if seen else 0)
    return found


def _state(entry: MemberState) -> tuple[object, ...]:
    return (entry.incarnation, entry.failures, entry.ends_in_a_row, entry.restarts_seen, entry.not_before)
