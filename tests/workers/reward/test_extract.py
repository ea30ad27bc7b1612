r"""Which text counts as the answer of a response: worked cases."""

from __future__ import annotations

import time

import pytest

from rz_workers.reward.extract import extract_answer, last_boxed

CASES = {
    "the plain form": (r"2+2=4 </think> <answer> \boxed{4} </answer>", "4"),
    "nested braces": (r"</think> <answer>\boxed{\frac{1}{\sqrt{2}}}</answer>", r"\frac{1}{\sqrt{2}}"),
    "white space around the answer is dropped": ("<answer>\\boxed{ \n 4 }</answer>", "4"),
    "words around the box do not matter": (r"<answer> It is \boxed{4}, I think. </answer>", "4"),
    "the last of several boxes": (r"<answer>\boxed{3} no, \boxed{4}</answer>", "4"),
    "the last of several answer blocks": (r"<answer>\boxed{3}</answer> <answer>\boxed{4}</answer>", "4"),
    "an answer block left open afterwards does not count": (r"<answer>\boxed{3}</answer> <answer>\boxed{4}", "3"),
    "text after the first closing tag of the last block does not count": (
        r"<answer>\boxed{3}</answer> \boxed{5} </answer>",
        "3",
    ),
    "an opening tag repeated: the innermost block": (r"<answer>\boxed{3} <answer>\boxed{4}</answer>", "4"),
    "a box in a box: the inner one starts last": (r"<answer>\boxed{x=\boxed{4}}</answer>", "4"),
    "an unclosed box after a closed one": (r"<answer>\boxed{3}, \boxed{4</answer>", "3"),
    "an unclosed box around a closed one": (r"<answer>\boxed{a \boxed{4}</answer>", "4"),
    "escaped braces are text": (r"<answer>\boxed{\{1, 2\}}</answer>", r"\{1, 2\}"),
    "escaped braces need not balance": (r"<answer>\boxed{\{1, 2}</answer>", r"\{1, 2"),
    "a line break before the closing brace": (r"<answer>\boxed{1 \\}</answer>", "1 \\\\"),
    "a doubled backslash before boxed": (r"<answer>\\boxed{4}</answer>", "4"),
    "a stray closing brace before": (r"<answer>} \boxed{4}</answer>", "4"),
    "a stray opening brace before": (r"<answer>{ \boxed{4}</answer>", "4"),
    "several lines": ("<answer>\nSo\n\\boxed{\n4\n}\n</answer>", "4"),
    "a box outside the answer block": (r"\boxed{4} </think> <answer> 4 </answer>", None),
    "a box but no answer block": (r"</think> \boxed{4}", None),
    "an answer block that is not closed": (r"</think> <answer> \boxed{4}", None),
    "closed before it opens": (r"</answer> <answer> \boxed{4}", None),
    "an answer without a box": ("<answer> 4 </answer>", None),
    "an unclosed box": (r"<answer> \boxed{4 </answer>", None),
    "an empty box": (r"<answer>\boxed{}</answer>", None),
    "a box of white space": (r"<answer>\boxed{  }</answer>", None),
    "the last box is empty": (r"<answer>\boxed{4} \boxed{}</answer>", None),
    "a space before the box's brace": (r"<answer>\boxed {4}</answer>", "4"),
    "a line before the box's brace": ("<answer>\\boxed\n  {4}</answer>", "4"),
    "a doubled backslash and a space": (r"<answer>\\boxed {4}</answer>", "4"),
    "an unclosed box with a space after a closed one": (r"<answer>\boxed{3}, \boxed {4</answer>", "3"),
    "a box without braces is none": (r"<answer>\boxed 5</answer>", None),
    "a box without braces after one with them": (r"<answer>\boxed{3} or \boxed 5</answer>", "3"),
    "another command's box is none": (r"<answer>\fbox{5}</answer>", None),
    "another command's box within": (r"<answer>\boxed{\fbox{5}}</answer>", r"\fbox{5}"),
    "another command's box around": (r"<answer>\fbox{\boxed{5}}</answer>", "5"),
    "an empty response": ("", None),
}


@pytest.mark.parametrize(("response", "answer"), CASES.values(), ids=CASES.keys())
def test_extracted_answer(response: str, answer: str | None) -> None:
    assert extract_answer(response) == answer


MEGABYTES = {
    "boxes never closed": ("\\boxed{" * 150_000, None),
    "braces never closed": ("{" * 1_000_000, None),
    "many boxes": ("\\boxed{1}" * 110_000, "1"),
    "boxes in each other": ("\\boxed{" * 120_000 + "1" + "}" * 120_000, "1"),
    "many tags": ("<answer>" * 125_000 + "\\boxed{1}", "1"),
    "boxes without braces": ("\\boxed " * 140_000, None),
    "white space before a brace that never comes": ("\\boxed" + " " * 1_000_000, None),
    "backslashes": ("\\" * 1_000_000, None),
}


@pytest.mark.parametrize(("text", "answer"), MEGABYTES.values(), ids=MEGABYTES.keys())
def test_a_megabyte_of_hostile_text_takes_linear_time(text: str, answer: str | None) -> None:
    """CPU time of this process alone, a tenth of the limit at most."""
    started = time.process_time()
    assert extract_answer(f"<answer>{text}</answer>") == answer
    assert last_boxed(text) == answer
    assert time.process_time() - started < 3
