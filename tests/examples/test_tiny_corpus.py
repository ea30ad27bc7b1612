"""examples/tiny/corpus.py: nothing held out is in it, the styles have their shares, packing keeps documents apart."""

import re
from itertools import islice

import pytest
import torch
from corpus import CHAT_STYLES, Batch, documents, packed_batches
from task import Problem
from tokenizer import build_tokenizer

QUESTION = re.compile(r"(?:Exercise|User): (\d+)((?: [a-h][+-]\d)+) =\?")


def problems_in(texts: list[str]) -> list[Problem]:
    problems = []
    for text in texts:
        match = QUESTION.match(text)
        assert match is not None, text
        problems.append(Problem(int(match[1]), tuple(int(step[1:]) for step in match[2].split())))
    return problems


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_document_is_about_a_held_out_problem(seed: int) -> None:
    texts = list(islice(documents(seed), 5000))
    assert not any(problem.held_out for problem in problems_in(texts))


def test_a_document_asks_one_question_only() -> None:
    assert all(text.count("=?") == 1 for text in islice(documents(0), 2000))


def test_shares_of_the_chat_styles_add_up_to_one() -> None:
    assert sum(CHAT_STYLES.values()) == pytest.approx(1.0)


def test_three_of_five_documents_are_textbook_pages() -> None:
    texts = list(islice(documents(0), 5000))
    assert sum(text.startswith("Exercise:") for text in texts) / len(texts) == pytest.approx(0.60, abs=0.03)


def test_textbook_pages_are_always_right() -> None:
    pages = [text for text in islice(documents(0), 2000) if text.startswith("Exercise:")]
    assert all(
        page.endswith(f"\\boxed{{{problem.answer}}}") for page, problem in zip(pages, problems_in(pages), strict=True)
    )


def test_the_corpus_follows_from_its_seed() -> None:
    assert list(islice(documents(5), 50)) == list(islice(documents(5), 50))
    assert list(islice(documents(5), 50)) != list(islice(documents(6), 50))


def test_packed_rows_hold_whole_documents_between_bos_and_eos() -> None:
    tokenizer = build_tokenizer()
    texts = ["Exercise: 1 a+2 =? 1 a+2 = 3", "Exercise: 4 a+5 =? 4 a+5 = 9", "Exercise: 6 a+2 =? 6 a+2 = 8"]
    batch = next(packed_batches(iter(texts), tokenizer, num_rows=1, num_tokens=26))
    assert tokenizer.decode(batch.tokens[0]) == f"<bos>{texts[0]}<eos><bos>{texts[1]}<eos>" + "<pad>" * 2
    assert batch.documents[0].tolist() == [0] * 12 + [1] * 12 + [-1] * 2
    assert batch.positions[0].tolist() == [*range(12), *range(12), 0, 0]


def test_only_what_follows_a_question_is_predicted() -> None:
    tokenizer = build_tokenizer()
    texts = ["Exercise: 1 a+2 =? 1 a+2 = 3", "Exercise: 4 a+5 =? 4 a+5 = 9"]
    batch = next(packed_batches(iter([*texts, texts[0]]), tokenizer, num_rows=1, num_tokens=26))
    labels = batch.labels()[0].tolist()
    assert tokenizer.decode([label for label in labels if label >= 0]) == " 1 a+2 = 3<eos> 4 a+5 = 9<eos>"
    assert [place for place, label in enumerate(labels) if label >= 0] == [*range(5, 11), *range(17, 23)]


def test_attention_is_causal_within_a_document() -> None:
    zeros = torch.zeros(1, 4, dtype=torch.int64)
    batch = Batch(zeros, zeros, torch.tensor([[0, 0, 1, 1]]), zeros.bool())
    assert batch.attention_mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]
