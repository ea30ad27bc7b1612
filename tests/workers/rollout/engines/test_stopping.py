"""Stop strings on token streams, against decoding everything after each token."""

from __future__ import annotations

import random

import pytest
from rollout_builders import EOS_ID, WORDS, byte_tokenizer, word_tokenizer

from rz_workers.rollout.engines.stopping import GOES_ON, IS_EOS, MAY_STOP, StopMatch, Stopper

STOP = ("User:", "Human:", "Assistant:", "</answer>")


def first_stop(stopper: Stopper, token_ids: list[int]) -> tuple[int, StopMatch] | None:
    """As the engine does it: look at rows whose newest token may stop them."""
    for count, token in enumerate(token_ids, start=1):
        if stopper.table[token] == MAY_STOP and (match := stopper.find(token_ids[:count])):
            return count, match
    return None


def plain_first_stop(stopper: Stopper, token_ids: list[int], stop: tuple[str, ...]) -> tuple[int, StopMatch] | None:
    """By decoding the whole response after every token."""
    for count in range(1, len(token_ids) + 1):
        text = stopper.text(token_ids[:count])
        ends = [(text.find(s) + len(s), stop.index(s)) for s in stop if s in text]
        if ends:
            end, which = min(ends)
            return count, StopMatch(stop[which], len(text) - end)
    return None


@pytest.mark.parametrize(
    ("text", "stop", "want"),
    [
        pytest.param("so 12 </answer>", STOP, ("</answer>", ""), id="the stop string is the end"),
        pytest.param("x</answer>zzz", STOP, ("</answer>", None), id="text behind the stop string"),
        pytest.param("a User:", STOP, ("User:", ""), id="a stop string of several tokens"),
        pytest.param("Use r: User", STOP, None, id="a stop string in pieces is none"),
        pytest.param("再见。", ("见。",), ("见。", ""), id="a stop string of characters with several bytes"),
        pytest.param("ok 🙂!", ("🙂",), ("🙂", ""), id="a stop string of one character with four bytes"),
    ],
)
def test_stop_strings_in_texts(text: str, stop: tuple[str, ...], want: tuple[str, str | None] | None) -> None:
    tokenizer = byte_tokenizer()
    token_ids = tokenizer.encode(text)
    stopper = Stopper(tokenizer, stop, [], len(tokenizer))
    found = first_stop(stopper, token_ids)
    assert found == plain_first_stop(stopper, token_ids, stop)
    if want is None:
        assert found is None
    else:
        assert found is not None
        assert found[1].stop == want[0]
        if want[1] == "":
            assert found[1].trailing == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "stop",
    [STOP, ("an", "nd a"), ("\n\n",), ("。", "ü"), ("7", " 7 ", "7 <")],
    ids=["the paper's", "short ones", "white space", "several bytes", "one inside another"],
)
def test_random_tokens_stop_where_the_decoded_text_says(stop: tuple[str, ...], seed: int) -> None:
    """Random tokens, and pieces of the stop strings cut at random bytes, so that they begin and end inside tokens."""
    tokenizer = byte_tokenizer()
    stopper = Stopper(tokenizer, stop, [], len(tokenizer))
    rng = random.Random(seed)
    byte_tokens = {tokenizer.decode([i]): i for i in range(len(tokenizer))}
    hits = 0
    for _ in range(40):
        token_ids: list[int] = []
        while len(token_ids) < 20:
            if rng.random() < 0.3:
                text = "".join(rng.choice(("x", "<", "", " ")) for _ in range(2)) + rng.choice(stop)
                token_ids += tokenizer.encode(text) if rng.random() < 0.7 else [byte_tokens.get(c, 5) for c in text]
            else:
                token_ids.append(rng.randrange(len(tokenizer)))
        found = first_stop(stopper, token_ids)
        assert found == plain_first_stop(stopper, token_ids, stop)
        hits += found is not None
    assert hits > 10


def test_only_tokens_that_could_end_a_stop_string_are_looked_at() -> None:
    stopper = Stopper(word_tokenizer(), ("</answer>", "User:"), [EOS_ID], len(WORDS) + 3)
    kinds = dict(zip([*WORDS, *["beyond the tokenizer"] * 3], stopper.table.tolist(), strict=True))
    assert {word for word, kind in kinds.items() if kind == MAY_STOP} == {"</answer>", "User:"}
    assert {word for word, kind in kinds.items() if kind == IS_EOS} == {"<eos>"}
    assert kinds["beyond the tokenizer"] == GOES_ON


def test_tokens_that_the_tokenizer_has_not_are_no_text_and_hide_no_stop_string() -> None:
    class Strict:
        """As tokenizers in Python are, which join ``None`` for a token that they do not know."""

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "</": 1, "s>": 4}  # with a gap, as added tokens may leave one

        def decode(self, token_ids: list[int], **_: object) -> str:
            texts = {token: text for text, token in self.get_vocab().items()}
            return "".join(texts[token] for token in token_ids)

    stopper = Stopper(Strict(), ("</s>",), [2], 8)
    assert stopper.text([0, 6, 1, 3, 4]) == "a</s>"
    assert stopper.find([0, 1, 6, 4]) == StopMatch("</s>", 0)
    assert stopper.table.tolist()[2] == IS_EOS


def test_without_stop_strings_only_eos_is_looked_at() -> None:
    stopper = Stopper(word_tokenizer(), (), [EOS_ID], len(WORDS))
    assert stopper.table.nonzero()[:, 0].tolist() == [EOS_ID]
    assert stopper.find([1, 2]) is None


def test_of_two_stop_strings_in_one_token_the_one_that_ends_first_counts() -> None:
    tokenizer = byte_tokenizer()
    token = next(i for i in range(len(tokenizer)) if "sw" in tokenizer.decode([i]))
    text = tokenizer.decode([token])
    stopper = Stopper(tokenizer, ("w", "s"), [], len(tokenizer))
    match = stopper.find([token])
    assert match == StopMatch("s", len(text) - text.index("s") - 1)


def test_an_empty_token_between_the_pieces_of_a_stop_string_does_not_hide_it() -> None:
    class Letters:
        """Token 0 is nothing, the others are letters."""

        def get_vocab(self) -> dict[str, int]:
            return {str(token): token for token in range(27)}

        def decode(self, token_ids: list[int], **_: bool) -> str:
            return "".join(chr(96 + token) if token else "" for token in token_ids)

    stopper = Stopper(Letters(), ("abc",), [], 27)
    assert stopper.find([1, 2, *[0] * 30, 3]) == StopMatch("abc", 0)
    assert stopper.find([1, 1, *[0] * 30, 3]) is None
