"""What is sealed by one run, for one place, is believed there and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rz_workers.seals import SEAL_BYTES, ForgedError, Seal

TOKEN = "5f0c3c1e-a-token"
OURS = Seal.of(TOKEN, "transfer", 3)


@given(place=st.text(), content=st.binary())
def test_what_was_closed_is_opened_at_its_place(place: str, content: bytes) -> None:
    assert OURS.open(place, OURS.close(place, content)) == content


@given(sealed=st.binary())
def test_any_other_bytes_are_refused(sealed: bytes) -> None:
    with pytest.raises(ForgedError, match="without the seal of this run"):
        OURS.open("g/join", sealed)


@given(content=st.binary(), flip=st.integers(min_value=0))
def test_a_changed_bit_is_noticed(content: bytes, flip: int) -> None:
    sealed = bytearray(OURS.close("g/join", content))
    sealed[flip // 8 % len(sealed)] ^= 1 << flip % 8
    with pytest.raises(ForgedError):
        OURS.open("g/join", bytes(sealed))


@pytest.mark.parametrize(
    ("other", "place"),
    [
        pytest.param(Seal.of("another token", "transfer", 3), "g/join", id="another run's"),
        pytest.param(Seal.of(TOKEN, "transfer", 2), "g/join", id="an earlier gang's"),
        pytest.param(Seal.of(TOKEN, "ranks", 3), "g/join", id="another purpose's"),
        pytest.param(OURS, "g/header", id="our own, for another place"),
        pytest.param(OURS, "g/joi", id="our own, with a byte of the place moved into the content"),
    ],
)
def test_what_was_sealed_elsewhere_is_refused(other: Seal, place: str) -> None:
    with pytest.raises(ForgedError):
        OURS.open("g/join", other.close(place, b"{}"))


def test_prefixes_are_apart_and_tell_nothing_of_the_token() -> None:
    seals = [Seal.of(token, purpose, i) for token in (TOKEN, "b") for purpose in ("transfer", "ranks") for i in (1, 2)]
    assert len({seal.prefix for seal in seals}) == len(seals)
    for seal in seals:
        assert len(bytes.fromhex(seal.prefix)) == SEAL_BYTES
        assert TOKEN not in seal.prefix
        assert TOKEN not in repr(seal)
        assert "_key" not in repr(seal)


def test_all_who_know_the_token_have_the_same_seal() -> None:
    assert Seal.of(TOKEN, "transfer", 3) == OURS
