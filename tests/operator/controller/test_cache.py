"""The operator's cache: events in any order, full lists, and the operator's own writes."""

from __future__ import annotations

from typing import Any

import pytest
from kube_builders import owned_by_run

from rz_api import names
from rz_operator.controller.cache import Cache, is_older
from rz_operator.controller.seen import RunKey

RUN = RunKey("team", "orz")


def run(version: str, uid: str = "u-1") -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": "orz", "uid": uid, "resourceVersion": version}}


def service(version: str, uid: str = "s-1", incarnation: int = 1, run_uid: str = "u-1") -> dict[str, Any]:
    labels = names.labels("orz", "trainer", uid=run_uid)
    metadata = {"namespace": "team", "name": "orz-trainer", "uid": uid, "resourceVersion": version, "labels": labels}
    metadata["ownerReferences"] = owned_by_run("orz", run_uid)
    return {"metadata": metadata, "spec": {"selector": names.selector("orz", "trainer", incarnation)}}


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [("9", "10", True), ("10", "9", False), ("7", "7", False), ("abc", "9", False), ("", "9", False)],
)
def test_only_numbers_are_ever_called_older(version: str, than: str, older: bool) -> None:
    assert is_older(version, than) is older


def test_an_event_that_arrives_late_does_not_bring_an_older_run_back() -> None:
    cache = Cache()
    cache.see_run(run("12"))
    cache.see_run(run("11"))
    assert cache.run(RUN) == run("12")


def test_a_run_made_again_under_its_name_replaces_the_old_one_whatever_the_versions_say() -> None:
    cache = Cache()
    cache.see_run(run("12", uid="old"))
    cache.see_run(run("3", uid="new"))
    cache.see_run(run("13", uid="old"), deleted=True)
    assert cache.run(RUN) == run("3", uid="new")


def test_children_belong_to_one_run_object_not_to_its_name() -> None:
    cache = Cache()
    assert cache.see_child("Service", service("5")) == RUN
    assert [each.uid for each in cache.children("team", "u-1").services] == ["s-1"]
    assert cache.children("team", "u-2").services == ()


def test_the_end_of_a_child_is_not_the_end_of_its_successor_of_the_same_name() -> None:
    cache = Cache()
    cache.see_child("Service", service("5", uid="s-1"))
    cache.see_child("Service", service("8", uid="s-2"))
    cache.see_child("Service", service("7", uid="s-1"), deleted=True)
    assert [each.uid for each in cache.children("team", "u-1").services] == ["s-2"]


def test_what_is_nobodys_is_not_kept() -> None:
    cache = Cache()
    foreign = {"metadata": {"namespace": "team", "name": "db", "uid": "x", "resourceVersion": "1", "labels": {}}}
    assert cache.see_child("Service", foreign) is None
    assert cache.see_child("NetworkPolicy", foreign) is None


def test_a_full_list_drops_what_a_broken_watch_missed_and_keeps_what_is_newer_than_the_list() -> None:
    cache = Cache()
    cache.see_child("Service", service("5", uid="s-1"))
    cache.see_child("Service", service("30", uid="s-9", run_uid="u-2"))
    assert cache.keep_only("Service", present=set(), version="20") == {RUN}
    assert cache.children("team", "u-1").services == ()
    assert [each.uid for each in cache.children("team", "u-2").services] == ["s-9"]


def test_runs_missing_from_a_full_list_are_gone() -> None:
    cache = Cache()
    cache.see_run(run("5"))
    assert cache.replace_runs([], "20") == {RUN}
    assert cache.run(RUN) is None


def test_an_answer_that_the_end_has_overtaken_does_not_bring_a_run_or_a_child_back() -> None:
    cache = Cache()
    cache.see_run(run("5"))
    cache.see_run(run("9"), deleted=True)
    cache.see_run(run("8"))
    assert cache.run(RUN) is None
    cache.see_child("Service", service("9"), deleted=True)
    cache.see_child("Service", service("8"))
    assert cache.children("team", "u-1").services == ()


def test_what_comes_back_into_a_watch_by_label_is_seen_again() -> None:
    cache = Cache()
    cache.see_child("Service", service("9"), deleted=True)
    cache.see_child("Service", service("10"))
    assert [each.uid for each in cache.children("team", "u-1").services] == ["s-1"]
