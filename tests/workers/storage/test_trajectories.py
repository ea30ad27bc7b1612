"""Trajectory shards: the schema, exact round trips, references, what DuckDB sees."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_workers.protocol.schedule import Unit
from rz_workers.storage.objects import CorruptObjectError, ObjectExistsError, ObjectStore
from rz_workers.storage.trajectories import (
    SCHEMA,
    UNUSABLE_VERSION,
    Trajectory,
    decode,
    encode,
    find_shards,
    find_unit_shards,
    read_shard,
    write_shard,
)

MakeTrajectory = Callable[..., Trajectory]
DESIGN = (
    "schema_version, run, step, group_id, sample_index, prompt_id, prompt, response, prompt_token_ids, "
    "response_token_ids, rollout_logprobs, loss_mask, finish_reason, stop_reason, extracted_answer, reference_answer, "
    "reward, reward_status, weight_version, engine, seconds, source, rule"
)


def rows_of(unit: Unit, make: MakeTrajectory, **changes: object) -> list[Trajectory]:
    return [make(group_id=group, sample_index=sample, **changes) for group, _, sample in unit.rows()]


def test_the_columns_are_those_of_the_design() -> None:
    assert ", ".join(SCHEMA.names) == DESIGN


def test_rows_round_trip(make_trajectory: MakeTrajectory) -> None:
    rows = [
        make_trajectory(),
        make_trajectory(stop_reason=None, extracted_answer=None, finish_reason="length", reward=0.0),
        make_trajectory(response_token_ids=(), rollout_logprobs=(), loss_mask=()),
        make_trajectory(loss_mask=(1, 0), response="é\n\0 ∑ 🙂"),
    ]
    assert decode(encode(rows)) == rows


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_log_probabilities_round_trip_to_the_bit(values: list[float]) -> None:
    row = Trajectory(
        run="r",
        step=0,
        group_id=0,
        sample_index=0,
        prompt_id="0-0",
        prompt="",
        response="",
        prompt_token_ids=(),
        response_token_ids=tuple(range(len(values))),
        rollout_logprobs=tuple(values),
        finish_reason="stop",
        stop_reason=None,
        extracted_answer=None,
        reference_answer="",
        reward=0.0,
        reward_status="no_answer",
        weight_version=0,
        engine="fake",
        seconds=0.0,
    )
    (back,) = decode(encode([row]))
    form = f"{len(values)}f"
    assert struct.pack(form, *back.rollout_logprobs) == struct.pack(form, *values)


def test_a_shard_of_an_earlier_release_is_read(make_trajectory: MakeTrajectory) -> None:
    rows = [make_trajectory(source="train.jsonl", rule="number"), make_trajectory(reward=0.0)]
    table = pq.read_table(io.BytesIO(encode(rows))).drop_columns(["source", "rule"])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert decode(buffer.getvalue()) == [replace(row, source="", rule="") for row in rows]


@pytest.mark.parametrize("column", ["reward", "engine"])
def test_a_file_that_lacks_any_other_column_is_no_shard(make_trajectory: MakeTrajectory, column: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(encode([make_trajectory()]))).drop_columns([column]), buffer)
    with pytest.raises(CorruptObjectError, match=rf"columns \['{column}'\] differ"):
        decode(buffer.getvalue())


def test_the_same_rows_give_the_same_bytes(make_trajectory: MakeTrajectory) -> None:
    assert encode([make_trajectory()]) == encode([make_trajectory()])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"rollout_logprobs": (-0.5,)}, "1 log-probabilities", id="a log-probability is missing"),
        pytest.param({"loss_mask": (1,)}, "1 mask values", id="a mask value is missing"),
        pytest.param({"rollout_logprobs": (-0.5, float("nan"))}, "not finite", id="NaN"),
        pytest.param({"rollout_logprobs": (-0.5, float("-inf"))}, "not finite", id="minus infinity"),
    ],
)
def test_a_trajectory_that_makes_no_sense_is_refused(
    make_trajectory: MakeTrajectory, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"group 6, sample 2: .*{reason}"):
        make_trajectory(**changes)


def test_a_later_schema_is_not_guessed_at(make_trajectory: MakeTrajectory) -> None:
    with pytest.raises(CorruptObjectError, match=r"schema \[2\], this version reads 1"):
        decode(encode([make_trajectory(schema_version=2)]))


@pytest.mark.parametrize("cut", [0, 3, 100], ids=["empty", "three bytes", "a hundred bytes"])
def test_half_a_file_is_not_a_shard(make_trajectory: MakeTrajectory, cut: int) -> None:
    with pytest.raises(CorruptObjectError, match="not a Parquet file"):
        decode(encode([make_trajectory()])[:cut])


# --------------------------------------------------------------------------------------------------------- shards


def test_a_shard_is_stored_under_its_unit_and_attempt(
    local_store: ObjectStore, unit: Unit, make_trajectory: MakeTrajectory
) -> None:
    rows = rows_of(unit, make_trajectory)
    rows[1] = replace(rows[1], finish_reason="length", reward=0.0, reward_status="truncated")
    ref = write_shard(local_store, unit, 2, rows, weight_version=3)
    assert ref.key == "trajectories/step-000003/group-000006-u1-a2.parquet"
    assert (ref.rows, ref.weight_version, ref.size_bytes) == (4, 3, len(local_store.get(ref.key)))
    assert (ref.stats.reward_sum, ref.stats.response_tokens, ref.stats.truncated) == (3.0, 8, 1)
    assert read_shard(local_store, ref) == rows


def test_a_masked_row_is_counted_and_has_no_reward(
    local_store: ObjectStore, unit: Unit, make_trajectory: MakeTrajectory
) -> None:
    rows = rows_of(unit, make_trajectory)
    rows[2] = replace(rows[2], reward=1.0, reward_status="crashed")
    stats = write_shard(local_store, unit, 1, rows, weight_version=3).stats
    assert (stats.reward_sum, stats.masked) == (3.0, 1)


def test_an_attempt_is_stored_once(local_store: ObjectStore, unit: Unit, make_trajectory: MakeTrajectory) -> None:
    rows = rows_of(unit, make_trajectory)
    write_shard(local_store, unit, 1, rows, weight_version=3)
    with pytest.raises(ObjectExistsError):
        write_shard(local_store, unit, 1, rows, weight_version=3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda rows: rows[::-1], "in that order", id="reversed"),
        pytest.param(lambda rows: rows[:-1], "found 3", id="one row short"),
        pytest.param(lambda rows: [replace(row, weight_version=2) for row in rows], "version", id="another version"),
        pytest.param(lambda rows: [replace(row, step=4) for row in rows], "step", id="another step"),
    ],
)
def test_rows_that_are_not_the_units_are_not_stored(
    local_store: ObjectStore,
    unit: Unit,
    make_trajectory: MakeTrajectory,
    change: Callable[[list[Trajectory]], list[Trajectory]],
    reason: str,
) -> None:
    with pytest.raises(ValueError, match=reason):
        write_shard(local_store, unit, 1, change(rows_of(unit, make_trajectory)), weight_version=3)
    assert local_store.list("") == []


def test_a_damaged_shard_is_detected_and_named(
    local_store: ObjectStore, unit: Unit, make_trajectory: MakeTrajectory
) -> None:
    ref = write_shard(local_store, unit, 1, rows_of(unit, make_trajectory), weight_version=3)
    data = bytearray(local_store.get(ref.key))
    data[len(data) // 2] ^= 1
    local_store.put(ref.key, bytes(data))
    with pytest.raises(CorruptObjectError, match=re.escape(ref.key)):
        read_shard(local_store, ref)


def test_stored_attempts_are_found_with_the_references_that_were_given(
    local_store: ObjectStore, unit: Unit, make_trajectory: MakeTrajectory
) -> None:
    refs = [
        write_shard(local_store, unit, attempt, rows_of(unit, make_trajectory), weight_version=3) for attempt in (10, 2)
    ]
    assert find_shards(local_store, unit) == refs[::-1]


def test_attempts_at_units_with_similar_names_are_kept_apart(
    local_store: ObjectStore, unit: Unit, make_trajectory: MakeTrajectory
) -> None:
    """Chunk 1 and chunk 11 of a group, and a unit of which nothing is stored."""
    eleventh = unit.model_copy(update={"chunk": 11, "first_sample": 22})
    nothing = unit.model_copy(update={"chunk": 2, "first_sample": 4})
    ref = write_shard(local_store, unit, 1, rows_of(unit, make_trajectory), weight_version=3)
    other = write_shard(local_store, eleventh, 1, rows_of(eleventh, make_trajectory), weight_version=3)
    assert find_unit_shards(local_store, [unit, eleventh, nothing]) == {
        unit.unit_id: [ref],
        eleventh.unit_id: [other],
        nothing.unit_id: [],
    }


@pytest.mark.parametrize("damage", ["not Parquet", "other rows", "cut off"])
def test_a_stored_attempt_that_cannot_be_used_keeps_its_number(
    local_store: ObjectStore,
    unit: Unit,
    make_trajectory: MakeTrajectory,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    rows = rows_of(unit, make_trajectory)
    data = {"not Parquet": b"junk", "other rows": encode(rows[:1]), "cut off": encode(rows)[:-9]}[damage]
    local_store.put_new(unit.shard_key(1), data)
    good = write_shard(local_store, unit, 2, rows, weight_version=3)
    bad, also_good = find_shards(local_store, unit)
    assert (bad.attempt, bad.rows, bad.weight_version) == (1, 0, UNUSABLE_VERSION)
    assert also_good == good
    assert f"{bad.key} cannot be used" in caplog.text


def test_duckdb_queries_a_runs_trajectories(tmp_path: Path, unit: Unit, make_trajectory: MakeTrajectory) -> None:
    store = ObjectStore(str(tmp_path / "run"))
    later = unit.model_copy(update={"step": 4, "group_ids": (8, 9)})
    write_shard(store, unit, 1, rows_of(unit, make_trajectory, reward=1.0), weight_version=3)
    write_shard(
        store, later, 1, rows_of(later, make_trajectory, step=4, weight_version=4, reward=0.0, loss_mask=(1, 1)), 4
    )
    query = f"""
        SELECT step, avg(reward), avg(len(response_token_ids)), sum(rollout_logprobs[1])
        FROM '{tmp_path}/run/trajectories/*/*.parquet' GROUP BY step ORDER BY step
    """
    assert duckdb.sql(query).fetchall() == [(3, 1.0, 2.0, -2.0), (4, 0.0, 2.0, -2.0)]
