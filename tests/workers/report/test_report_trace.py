"""``trace.json`` against the rules of the trace event format, and what it tells."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from report_builders import START, a_folder, shards_of

from rz_workers.report.main import main
from rz_workers.report.record import MANIFESTS_READ, read_run
from rz_workers.report.trace import Bar, lanes, trace
from rz_workers.storage.records import StepManifest, UnitTimes
from rz_workers.storage.run_folder import RunFolder

METADATA = {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}


def freeze(folder: RunFolder, step: int, *units: tuple[str, float, float]) -> None:
    """Write a step's manifest: (rollout, leased, completed) of its first units, seconds from START."""
    shards = folder.steps()[step].shards if step in folder.steps() else shards_of(folder, step)
    times = tuple(
        UnitTimes(unit_id=shard.unit.unit_id, rollout_id=rollout, leased=START + leased, completed=START + completed)
        for shard, (rollout, leased, completed) in zip(shards, units, strict=False)
    )
    manifest = StepManifest(
        step=step, shards=shards, generation_started=START, generation_finished=START + 1, units=times
    )
    folder.freeze_step(manifest)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = a_folder(tmp_path / "storage", steps=3)
    freeze(folder, 0, ("rollout-0-aa", 0.0, 0.2), ("rollout-0-aa", 0.1, 0.25))
    freeze(folder, 1, ("rollout-0-aa", 1.2, 1.4), ("rollout-1-bb", 1.2, 1.3))
    return folder


def check(content: Any) -> list[dict[str, Any]]:
    """The rules by which a viewer reads the file; returns the events."""
    events = content["traceEvents"]
    assert isinstance(events, list)
    processes: set[int] = set()
    threads: set[tuple[int, int]] = set()
    for event in events:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in METADATA
            kind, argument = event["name"].split("_", 1)
            assert isinstance(event["args"][argument], str if argument == "name" else int)
            if kind == "process":
                processes.add(event["pid"])
            else:
                threads.add((event["pid"], event["tid"]))
        elif event["ph"] == "X":
            assert isinstance(event["cat"], str)
            assert isinstance(event["ts"], int | float)
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in threads
        else:
            assert event["ph"] == "C"
            assert event["ts"] >= 0
            assert all(isinstance(value, int | float) for value in event["args"].values())
        assert event["pid"] in processes
    rows = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            rows[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for bars in rows.values():
        assert all(end <= start for (_, end), (start, _) in zip(sorted(bars), sorted(bars)[1:], strict=False))
    return list(events)


def named(events: list[dict[str, Any]], kind: str) -> dict[tuple[int, ...], str]:
    """(pid,) or (pid, tid) -> name."""
    return {(e["pid"], e["tid"]) if "tid" in e else (e["pid"],): e["args"]["name"] for e in events if e["name"] == kind}


def test_the_file_keeps_to_the_format(folder: RunFolder, tmp_path: Path) -> None:
    main([str(tmp_path / "storage"), "--out", str(tmp_path / "out")])
    content = json.loads((tmp_path / "out" / "trace.json").read_text(), parse_constant=pytest.fail)
    check(content)
    assert content["otherData"] == {"run": "tiny", "started_unix_seconds": START}


def test_each_role_is_a_process_and_each_rollout_has_rows(folder: RunFolder) -> None:
    events = check(trace(read_run(folder.store)))
    assert list(named(events, "process_name").values()) == ["trainer", "rollout"]
    rows = [name for (pid, _), name in named(events, "thread_name").items() if pid == 2]
    assert sorted(rows) == ["evaluate", "generate", "rollout-0-aa", "rollout-0-aa (2)", "rollout-1-bb"]


def test_phases_are_bars_of_their_step(folder: RunFolder) -> None:
    events = check(trace(read_run(folder.store)))
    [update] = [e for e in events if e["name"] == "policy_update" and e["args"]["step"] == 1]
    assert (update["ts"], update["dur"]) == (pytest.approx(1.75e6), pytest.approx(0.46e6))
    assert len([e for e in events if e["name"] == "generate" and e["ph"] == "X"]) == 3


def test_a_unit_tells_what_came_of_it(folder: RunFolder) -> None:
    events = check(trace(read_run(folder.store)))
    units = [e for e in events if e.get("cat") == "unit"]
    assert [(e["name"], e["ts"], e["dur"]) for e in units] == [
        ("step 0", 0, 200_000),
        ("step 1", 1_200_000, 200_000),
        ("step 0", 100_000, 150_000),
        ("step 1", 1_200_000, 100_000),
    ]
    assert units[0]["args"] == {"unit": "step-000000/group-000000-u0", "responses": 2, "tokens": 6, "weight_version": 0}


def test_reward_and_length_are_counters_at_the_end_of_each_generation(folder: RunFolder) -> None:
    record = read_run(folder.store)
    counters = [e for e in check(trace(record)) if e["ph"] == "C"]
    rewards = [e["args"]["reward_mean"] for e in counters if e["name"] == "reward_mean"]
    assert rewards == [commit.metrics["reward_mean"] for commit in record.commits]
    assert len([e for e in counters if e["name"] == "response_length_mean"]) == 3


def test_units_of_the_newest_steps_are_read(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, steps=MANIFESTS_READ + 2, eval_sets=())
    for step in range(MANIFESTS_READ + 2):
        freeze(folder, step)
    assert [manifest.step for manifest in read_run(folder.store).manifests] == list(range(2, MANIFESTS_READ + 2))


@pytest.mark.parametrize(
    ("bars", "want"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(0, 2), (2, 4)], [[(0, 2), (2, 4)]], id="one after the other"),
        pytest.param([(0, 2), (1, 3), (2, 4)], [[(0, 2), (2, 4)], [(1, 3)]], id="the first row that is free again"),
        pytest.param([(0, 9), (1, 2), (3, 4)], [[(0, 9)], [(1, 2), (3, 4)]], id="behind a long one"),
    ],
)
def test_bars_that_overlap_get_rows_of_their_own(
    bars: list[tuple[float, float]], want: list[list[tuple[float, float]]]
) -> None:
    found = lanes(Bar("r", "row", "n", "c", start, end - start) for start, end in bars)
    assert [[(bar.started, bar.started + bar.seconds) for bar in lane] for lane in found] == want
