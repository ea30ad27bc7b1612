"""Keys of a run's folder, spelled out, and their parsers."""

from __future__ import annotations

import pytest

from rz_api.names import MAX_INCARNATION
from rz_workers.storage import layout


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (layout.incarnation_key(3), "incarnations/000003"),
        (layout.step_key(12), "steps/step-000012.json"),
        (layout.step_key(12, 3), "steps/step-000012-i3.json"),
        (layout.trajectories_prefix(12), "trajectories/step-000012"),
        (layout.weights_prefix(13, 1), "weights/v000013-i1"),
        (layout.checkpoint_prefix(55, 1), "checkpoints/step-000055-i1"),
        (layout.checkpoint_index_key("checkpoints/step-000055-i1"), "checkpoints/step-000055-i1/index.json"),
        (layout.recovery_key(3), "recoveries/000003.json"),
        (layout.export_prefix(55, "policy"), "export/step-000055/policy"),
        (layout.eval_table_key(50, "math500"), "eval/step-000050/math500.parquet"),
        (layout.eval_summary_key(50), "eval/step-000050/summary.json"),
        (layout.data_key("eval-math500"), "data/eval-math500.parquet"),
        (layout.manifest_key("model"), "model/manifest.json"),
    ],
)
def test_keys_are_those_of_the_design(key: str, expected: str) -> None:
    assert key == expected


@pytest.mark.parametrize("number", [0, 7, 999_999, 1_000_000])
def test_parsers_undo_the_functions(number: int) -> None:
    assert layout.parse_step(layout.step_key(number)) == number
    assert layout.parse_step(layout.step_key(number, 12)) == number
    assert layout.parse_weights(layout.weights_prefix(number, 12)) == (number, 12)
    assert layout.parse_checkpoint(f"{layout.checkpoint_prefix(number, 12)}/policy/rank-00000-0.bin") == (number, 12)
    assert layout.parse_eval_summary(layout.eval_summary_key(number)) == number


@pytest.mark.parametrize("incarnation", [1, 7, MAX_INCARNATION])
def test_incarnations_read_back_up_to_the_last_one(incarnation: int) -> None:
    assert layout.parse_incarnation(layout.incarnation_key(incarnation)) == incarnation
    assert layout.parse_recovery(layout.recovery_key(incarnation)) == incarnation
    assert layout.parse_weights(layout.weights_prefix(3, incarnation)) == (3, incarnation)


HUGE = "9" * 5_000


@pytest.mark.parametrize("number", [str(MAX_INCARNATION + 1), HUGE], ids=["one too many", "more digits than int takes"])
def test_a_number_that_no_operator_gives_is_nobodys(number: str) -> None:
    assert layout.parse_incarnation(f"incarnations/{number}") is None
    assert layout.parse_recovery(f"recoveries/{number}.json") is None
    assert layout.parse_weights(f"weights/v000001-i{number}") is None
    assert layout.parse_checkpoint(f"checkpoints/step-000001-i{number}") is None
    assert layout.parse_step(f"steps/step-{HUGE}.json") is None


@pytest.mark.parametrize("key", ["steps/other.json", "weights/v1-i1", "weights/v000001", "eval/step-000001/x.parquet"])
def test_other_names_are_not_taken_for_ours(key: str) -> None:
    parsers = (layout.parse_incarnation, layout.parse_step, layout.parse_weights, layout.parse_checkpoint)
    assert [parse(key) for parse in parsers] == [None] * 4
    assert layout.parse_eval_summary(key) is None
