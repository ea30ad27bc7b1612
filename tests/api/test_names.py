"""Names, labels, and the room that they need."""

from __future__ import annotations

import re

import pytest

from rz_api import names

LONGEST = "a" * names.MAX_NAME_LENGTH


def test_a_trainer_pod_carries_its_incarnation() -> None:
    assert names.trainer_pod("orz-7b", 3, 0) == "orz-7b-trainer-i3-0"


def test_a_trainer_pods_name_reads_back() -> None:
    assert names.parse_trainer_pod("orz-7b", names.trainer_pod("orz-7b", 12, 34)) == (12, 34)


@pytest.mark.parametrize("pod", ["orz-7b-rollout-0", "orz-7b-2-trainer-i1-0", "orz-7b-trainer-i0-0", "orz-7b-trainer"])
def test_another_pod_is_no_trainer_pod_of_the_run(pod: str) -> None:
    assert names.parse_trainer_pod("orz-7b", pod) is None


CHILDREN = {
    "trainer pod": names.trainer_pod(LONGEST, names.MAX_INCARNATION, names.MAX_NODE_INDEX),
    "pod group": names.trainer_pod_group(LONGEST, names.MAX_INCARNATION),
    "trainer service": names.trainer_service(LONGEST),
    "rollout pod": names.rollout_pod(LONGEST, names.MAX_ROLLOUT_INDEX, names.MAX_INCARNATION),
    "ledger": names.ledger(LONGEST),
    "reward": names.reward(LONGEST),
    "config map": names.config_map(LONGEST),
    "secret": names.token_secret(LONGEST, "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"),
    "network policy": names.network_policy(LONGEST),
}


@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_a_childs_name_is_a_hostname_and_a_label_value_even_for_the_longest_run(child: str) -> None:
    assert len(child) <= 63
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child)


@pytest.mark.parametrize("name", ["a", "orz-7b", "a-1", LONGEST])
def test_these_are_names(name: str) -> None:
    assert re.search(names.NAME_PATTERN, name)


@pytest.mark.parametrize("name", ["", "7b", "-a", "a-", "a.b", "A", "a_b", LONGEST + "a", "a b"])
def test_these_are_not(name: str) -> None:
    assert not re.search(names.NAME_PATTERN, name)


def test_labels_name_the_run_and_what_of_it_a_child_is() -> None:
    assert names.labels("orz-7b", "trainer", 0, 3) == {
        "app.kubernetes.io/name": "reasonerzero",
        "app.kubernetes.io/instance": "orz-7b",
        "app.kubernetes.io/managed-by": "reasonerzero-operator",
        "app.kubernetes.io/component": "trainer",
        "reasonerzero.dev/run": "orz-7b",
        "reasonerzero.dev/role": "trainer",
        "reasonerzero.dev/index": "0",
        "reasonerzero.dev/incarnation": "3",
    }


def test_a_selector_picks_what_the_labels_say() -> None:
    chosen = names.selector("orz-7b", "trainer", 3)
    assert chosen.items() <= names.labels("orz-7b", "trainer", 0, 3).items()
    assert not chosen.items() <= names.labels("orz-7b", "trainer", 0, 4).items()


def test_the_scale_subresource_gets_its_selector_as_text() -> None:
    assert names.selector_string("orz-7b", "rollout") == "reasonerzero.dev/run=orz-7b,reasonerzero.dev/role=rollout"
