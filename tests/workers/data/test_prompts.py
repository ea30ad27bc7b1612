"""The prompt to the letter, its tokens, and the round trip that a tokenizer must make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.decoders import Fuse
from transformers import PreTrainedTokenizerFast

from rz_api.spec import PROMPT_TEMPLATE
from rz_workers.data.prompts import brings_bos, check_round_trip, load_tokenizer, render, tokenize
from rz_workers.runtime import UserError

RECIPE_PROMPT = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning "
    "process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: You must put your answer "
    "inside <answer> </answer> tags, i.e., <answer> answer here </answer>. And your final answer will be extracted "
    "automatically by the \\boxed{} tag.\n"
    "This is the problem:\n"
    "What is {x} for $x = \\frac{1}{2}$?\n"
    "Assistant: <think>"
)


def characters(text: str, bos: bool = False, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters, those of ``text`` alone. ``adds_bos``: of its own accord, as Llama's does."""
    vocabulary = {"<s>": 0, "?": 1}
    for character in text:
        vocabulary.setdefault(character, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = Fuse()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>" if bos else None, clean_up_tokenization_spaces=False
    )


def test_the_prompt_is_the_papers_to_the_letter() -> None:
    assert render(PROMPT_TEMPLATE, "What is {x} for $x = \\frac{1}{2}$?") == RECIPE_PROMPT


def test_a_question_is_not_rendered_itself() -> None:
    assert render("Q: {question} {}", "{question}{0}") == "Q: {question}{0} {}"


@pytest.mark.parametrize(("bos", "front"), [(False, []), (True, [0])], ids=["without BOS", "with BOS"])
def test_tokens_have_bos_in_front_if_there_is_one_and_nothing_else(bos: bool, front: list[int]) -> None:
    assert tokenize(characters("ab", bos), "abba") == [*front, 2, 3, 3, 2]


def prompt_tokens(tokenizer: PreTrainedTokenizerFast, template: str, question: str) -> list[int]:
    text = render(template, question)
    return tokenize(tokenizer, text, has_bos=brings_bos(tokenizer, template))


@pytest.mark.parametrize("adds_bos", [False, True], ids=["add_bos_token false", "add_bos_token true"])
@pytest.mark.parametrize(
    ("template", "question", "number"),
    [
        pytest.param("a{question}", "b", 1, id="neither has one"),
        pytest.param("<s>a{question}", "b", 1, id="the template begins with one"),
        pytest.param("<s>{question}", "b", 1, id="the template is one"),
        pytest.param("{question}", "<s>b", 2, id="the question begins with one, which is data"),
        pytest.param("<s>{question}", "<s>b", 2, id="both begin with one"),
        pytest.param("a<s>{question}", "b", 2, id="one inside the template"),
    ],
)
def test_there_is_one_bos_in_front_whether_the_template_brings_it_or_not(
    template: str, question: str, number: int, adds_bos: bool
) -> None:
    ids = prompt_tokens(characters("ab", bos=True, adds_bos=adds_bos), template, question)
    assert ids[0] == 0
    assert ids.count(0) == number


def test_without_a_bos_the_text_of_one_is_text() -> None:
    tokenizer = characters("<s>b")
    assert not brings_bos(tokenizer, "<s>{question}")
    assert tokenizer.decode(prompt_tokens(tokenizer, "<s>{question}", "b")) == "<s>b"


def test_a_bos_text_that_the_tokenizer_takes_for_other_tokens_is_no_bos() -> None:
    class InPieces:
        bos_token, bos_token_id = "<s>", 0

        def encode(self, text: str, **_: Any) -> list[int]:
            return [ord(character) for character in text]

    assert tokenize(InPieces(), "<s>a", has_bos=True) == [0, *map(ord, "<s>a")]


@pytest.mark.parametrize("bos", [False, True], ids=["without BOS", "with BOS"])
def test_a_tokenizer_that_gives_back_the_prompt_passes(bos: bool) -> None:
    check_round_trip(characters(PROMPT_TEMPLATE + "7", bos), PROMPT_TEMPLATE)


def test_a_tokenizer_that_lacks_a_character_is_refused_with_the_place() -> None:
    tokenizer = characters(PROMPT_TEMPLATE.replace("<", "") + "7")
    with pytest.raises(UserError, match=r"does not round-trip.*\?think>.*required.*<think>.*set model\.tokenizer"):
        check_round_trip(tokenizer, PROMPT_TEMPLATE)


def test_a_tokenizer_that_drops_what_it_does_not_know_is_refused() -> None:
    class Dropping:
        bos_token_id = None

        def encode(self, text: str, **_: Any) -> list[int]:
            return [ord(character) for character in text if character != " "]

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(map(chr, ids))

    with pytest.raises(UserError, match=r"the tokenizer \(Dropping\) does not round-trip the prompt"):
        check_round_trip(Dropping(), "a b {question}")


def test_the_probe_may_be_a_question_of_the_data() -> None:
    tokenizer = characters("Q: 7")
    check_round_trip(tokenizer, "Q: {question}")
    with pytest.raises(UserError, match="does not round-trip"):
        check_round_trip(tokenizer, "Q: {question}", "8")


def test_a_word_level_tokenizer_under_a_model_type_with_a_class_of_its_own_is_refused(tmp_path: Path) -> None:
    """TINY.md's trap: transformers takes its Qwen2 tokenizer for the folder, whatever tokenizer.json says."""
    words = Tokenizer(models.WordLevel({"?": 0, "Q:": 1, " 7": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    words.decoder = Fuse()
    PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False).save_pretrained(tmp_path)
    check_round_trip(load_tokenizer(tmp_path), "Q: {question}")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UserError, match=r"\(Qwen2Tokenizer\) does not round-trip"):
        check_round_trip(load_tokenizer(tmp_path), "Q: {question}")


def test_a_tokenizer_loads_from_its_folder(tmp_path: Path) -> None:
    characters("ab", bos=True).save_pretrained(tmp_path)
    assert tokenize(load_tokenizer(tmp_path), "ba") == [0, 3, 2]


def test_a_folder_that_is_not_there_is_the_users_to_change(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not load: there is no such folder; correct model\.name"):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="an empty folder"),
        pytest.param({"tokenizer.json": "{"}, id="a broken file"),
        pytest.param({"config.json": '{"model_type": "unheard-of"}'}, id="an unknown model"),
    ],
)
def test_a_folder_that_holds_no_tokenizer_is_the_users_to_change(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(
        UserError, match=rf"the tokenizer {tmp_path} does not load: \w+: .*correct model\.name"
    ) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
