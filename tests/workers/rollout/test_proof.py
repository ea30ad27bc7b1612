"""When an engine's scores of the canary prove its weights, and when they do not."""

import math

import pytest

from rz_workers.protocol.messages import Canary
from rz_workers.rollout.engines.interface import StaleWeightsError
from rz_workers.rollout.proof import bits_of, judge

CANARY = Canary(token_ids=(5, 6, 7), logprobs=(-1.0, -2.0))
EXACT = (-1.0, -2.0)


@pytest.mark.parametrize(
    ("scores", "dtype", "want_error"),
    [
        pytest.param((-1.0, -2.0), "float32", 0.0, id="the trainer's scores"),
        pytest.param((-1.0005, -2.0005), "float32", 5e-4, id="rounding of float32"),
        pytest.param((-1.01, -1.91), "bfloat16", 0.05, id="rounding of bfloat16"),
        pytest.param((-1.15, -2.0), "float16", 0.075, id="the mean counts, not the largest distance"),
    ],
)
def test_scores_near_the_trainers_prove_the_weights(scores: tuple[float, ...], dtype: str, want_error: float) -> None:
    proof = judge(CANARY, scores, dtype, None, "new", hardware="vllm on this")
    assert (proof.digest, proof.bits, proof.hardware) == ("new", bits_of(scores), "vllm on this")
    assert proof.error == pytest.approx(want_error)


@pytest.mark.parametrize(
    ("scores", "dtype", "complaint"),
    [
        pytest.param((-1.002, -2.002), "float32", r"0\.002 nats .* 0\.001 are allowed in float32", id="float32"),
        pytest.param((-1.67, -2.67), "bfloat16", r"0\.67 nats .* 0\.1 are allowed in bfloat16", id="a stale tied head"),
        pytest.param((-1.3, -2.0), "float16", r"0\.15 nats .* 0\.1 are allowed in float16", id="float16"),
        pytest.param((math.nan, -2.0), "bfloat16", "nan nats", id="not a number"),
        pytest.param((-math.inf, -2.0), "bfloat16", "inf nats", id="an impossible token"),
        pytest.param((-1.0,), "float32", "scored 1 tokens of the canary, the trainer 2", id="too few scores"),
    ],
)
def test_other_scores_are_refused(scores: tuple[float, ...], dtype: str, complaint: str) -> None:
    with pytest.raises(StaleWeightsError, match=complaint):
        judge(CANARY, scores, dtype, None, "new")


def test_the_same_bits_under_another_digest_are_a_skipped_update() -> None:
    first = judge(CANARY, EXACT, "float32", None, "digest-of-the-old")
    with pytest.raises(StaleWeightsError, match=r"same bits .* from digest digest-of-th to new: it skipped the update"):
        judge(CANARY, EXACT, "float32", (first.digest, first.bits), "new")


def test_the_same_bits_under_the_same_digest_are_a_reload() -> None:
    first = judge(CANARY, EXACT, "float32", None, "same")
    assert judge(CANARY, EXACT, "float32", (first.digest, first.bits), "same") == first


def test_one_changed_bit_is_an_update() -> None:
    moved = (-1.0, -2.0000002384185791015625)  # the next float32
    first = judge(CANARY, EXACT, "float32", None, "old")
    assert judge(CANARY, moved, "float32", (first.digest, first.bits), "new").bits != first.bits


def test_bits_are_those_of_float32_and_keep_the_order() -> None:
    assert bits_of((-0.1, -0.2)) == bits_of((-0.1 + 1e-12, -0.2))
    assert bits_of((-0.1, -0.2)) != bits_of((-0.2, -0.1))
    assert bits_of((0.0,)) != bits_of((-0.0,))
