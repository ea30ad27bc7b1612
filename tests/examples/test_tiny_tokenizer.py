"""examples/tiny/tokenizer.py: what is sampled re-encodes to itself, also when loaded the way a run loads it."""

import random
from itertools import product
from pathlib import Path

import pytest
from corpus import documents
from pretrain import new_model
from task import PROMPT_TEMPLATE, answered, draw_problem, full_steps
from tokenizer import build_tokenizer, vocabulary
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rz_workers.data.prompts import check_round_trip, load_tokenizer, tokenize

SPECIAL = 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Saved beside its model's configuration and loaded by ``AutoTokenizer``, which looks at both."""
    folder: Path = tmp_path_factory.mktemp("model")
    made = build_tokenizer()
    made.save_pretrained(folder)
    new_model(made, seed=0).config.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_the_vocabulary_has_no_token_twice() -> None:
    assert len(set(vocabulary())) == len(vocabulary()) == 83


def test_any_two_tokens_in_a_row_re_encode(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [list(pair) for pair in product(range(SPECIAL, len(vocabulary())), repeat=2)]
    texts = [tokenizer.decode(pair) for pair in pairs]
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == pairs


def test_random_token_sequences_re_encode(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    sequences = [rng.choices(range(SPECIAL, len(vocabulary())), k=40) for _ in range(500)]
    assert tokenizer([tokenizer.decode(ids) for ids in sequences], add_special_tokens=False)["input_ids"] == sequences


def test_every_document_of_the_corpus_is_made_of_known_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    for text, _ in zip(documents(seed=0), range(300), strict=False):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_a_prompt_is_one_token_a_word_with_bos_in_front(tokenizer: PreTrainedTokenizerFast) -> None:
    text = PROMPT_TEMPLATE.replace("{question}", "7 a+8 b-4 =?")
    assert tokenizer.convert_ids_to_tokens(tokenize(tokenizer, text)) == [
        *("<bos>", "User:", " 7", " a", "+8", " b", "-4", " =?", " Assistant:", " <think>"),
    ]


def test_the_check_at_a_runs_start_accepts_it(tokenizer: PreTrainedTokenizerFast) -> None:
    check_round_trip(tokenizer, PROMPT_TEMPLATE, "7 a+8 b-4 =?")


def test_a_decoded_response_keeps_the_boxed_answer_in_one_piece(tokenizer: PreTrainedTokenizerFast) -> None:
    problem = draw_problem(random.Random(0), held_out=True)
    response = answered(full_steps(problem, problem.totals), problem.answer)
    decoded = tokenizer.decode(tokenizer.encode(response, add_special_tokens=False))
    assert decoded.endswith(f"<answer> \\boxed{{{problem.answer}}} </answer>")


def test_the_workers_load_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = load_tokenizer(tokenizer.name_or_path)
    assert loaded.get_vocab() == tokenizer.get_vocab() == {token: i for i, token in enumerate(vocabulary())}
