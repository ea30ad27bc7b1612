"""The formats of records, one table: what a record looks like, how it is told from others, and how it is read.

Called by ``datasets``, which decides by the first record of a file. docs/data.md shows the table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rz_api.spec import DataSource
from rz_workers.data.malformed import MalformedError, fields_of, kind_of
from rz_workers.data.numbers import Number, is_finite

QUESTION, ANSWER = (DataSource.model_fields[name].default for name in ("question_column", "answer_column"))
_TURNS = ("messages", "conversations", "prompt")
"""Where a record has its turns."""
USERS, ASSISTANTS = ("user", "human"), ("assistant", "gpt")
_FINAL = "####"
_RATIONALE = re.compile(rf"(?:^|\n){_FINAL} *(\S[^\n]*)\s*$")


@dataclass(frozen=True)
class Format:
    """One way to write a question and its reference answer."""

    name: str
    """As ``data.train[].format`` has it."""
    record: str
    """A record, for people."""
    of: str
    """Whose files are written so."""
    detects: Callable[[Any, DataSource], bool]
    """Whether a record is one."""
    read: Callable[[Any, DataSource], tuple[str, str]]
    """(question, reference answer) of a record. Raises MalformedError."""
    uses: Callable[[DataSource], Sequence[str]]
    """Its fields for these two; the others may be of use to a verifier."""


def detect(value: Any, source: DataSource) -> Format:
    """The format of a source whose ``format`` is ``auto``, by its first record. Columns that the source names win."""
    if is_named(source):
        return BY_NAME["gsm8k" if _is_gsm8k(value, source) else "columns"]
    return next(each for each in FORMATS if each.detects(value, source))


def is_named(source: DataSource) -> bool:
    """Whether the source says which columns it means."""
    return (source.question_column, source.answer_column) != (QUESTION, ANSWER)


def look_up(record: Any, path: str) -> Any:
    """The field of that name; or, where there is none, along the dots: ``reward_model.ground_truth``,
    ``prompt.0.content``. Raises KeyError."""
    if isinstance(record, dict) and path in record:
        return record[path]
    head, dot, rest = path.partition(".")
    if isinstance(record, list) and head.isdecimal() and int(head) < len(record):
        found = record[int(head)]
    elif isinstance(record, dict) and dot and head in record:
        found = record[head]
    else:
        raise KeyError(path)
    return look_up(found, rest) if dot else found


def text_at(record: Any, path: str) -> str:
    """The question there."""
    found, text = _found(record, path)
    if isinstance(text, Number) or not isinstance(text, str) or not text.strip():
        raise MalformedError(f"found {found}; a question under {path!r} is required")
    return text


def answer_at(record: Any, path: str) -> str:
    """The reference answer there, a ``Number`` where it is one: verifiers compare it as text. A list of one, and the
    JSON text of a list of one text, are their element."""
    found, answer = _found(record, path)
    if isinstance(answer, str) and answer.strip().startswith('["') and (listed := _list_of_one(answer)) is not None:
        answer = listed
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    # bool is an int in Python, and no answer.
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = Number(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise MalformedError(f"found {found}; a reference answer (text or number) under {path!r} is required")
    if not is_finite(answer) or (isinstance(answer, Number) and "inf" in answer.lower()):
        raise MalformedError(f"found {answer} under {path!r}; a reference answer that is something is required")
    return answer


def _found(record: Any, path: str) -> tuple[str, Any]:
    """What is there, in words and itself; None where nothing is."""
    try:
        value = look_up(record, path)
    except KeyError:
        return fields_of(record) if isinstance(record, dict) else kind_of(record), None
    return ("an empty text" if isinstance(value, str) and not value.strip() else kind_of(value)), value


def _list_of_one(text: str) -> Any:
    try:
        listed = json.loads(text)
    except json.JSONDecodeError:
        return None
    return listed if len(listed) == 1 and isinstance(listed[0], str) else None


# ----------------------------------------------------------------------------------------------------- the readers


def _orz(value: Any, _: DataSource) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(turn, dict) for turn in value):
        raise MalformedError(f"found {kind_of(value)}; format orz requires a list of a human and an assistant turn")
    human, assistant = value
    if (human.get("from"), assistant.get("from")) != ("human", "assistant"):
        raise MalformedError(
            f"found turns from {human.get('from')!r} and {assistant.get('from')!r}; required are 'human', 'assistant'"
        )
    if not isinstance(assistant.get("ground_truth"), dict):
        raise MalformedError('the assistant turn has no "ground_truth": {"value": …}')
    return text_at(human, "value"), answer_at(assistant["ground_truth"], "value")


def _orz_eval(value: Any, _: DataSource) -> tuple[str, str]:
    turns = value.get("prompt")
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], dict):
        raise MalformedError(f'found {kind_of(turns)} as "prompt"; format orz-eval requires a list of one user turn')
    return text_at(turns[0], "value"), answer_at(value, "final_answer")


def _verl(value: Any, _: DataSource) -> tuple[str, str]:
    turns = value.get("prompt")
    question = text_at(value, "prompt") if isinstance(turns, str) else _asked(turns, "prompt")
    return question, answer_at(value, "reward_model.ground_truth")


def _messages(value: Any, source: DataSource) -> tuple[str, str]:
    turns = _turns_of(value)
    question = _asked(turns, "turns")
    last = turns[-1]
    if isinstance(value, dict) and source.answer_column in value:
        return question, answer_at(value, source.answer_column)
    if _role(last) not in ASSISTANTS:
        raise MalformedError(
            f"found no assistant's turn and no field {source.answer_column!r}; one of the two is required as reference "
            "answer"
        )
    return question, answer_at(last, "content" if "content" in last else "value")


def _turns_of(value: Any) -> Any:
    """The list in which a record of format messages has its turns; None where it has none."""
    if isinstance(value, dict):
        return next((value[name] for name in _TURNS if isinstance(value.get(name), list)), None)
    return value


def _asked(turns: Any, name: str) -> str:
    """What the only user's turn says."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise MalformedError(f"found {kind_of(turns)} as {name}; a list of turns with role and content is required")
    roles = [_role(turn) for turn in turns]
    if roles[0] not in USERS or roles[1:] not in ([], *([each] for each in ASSISTANTS)):
        raise MalformedError(
            f"found turns of {', '.join(map(str, roles))} as {name}; one of a user is required, which one of an "
            "assistant may follow: data.promptTemplate says what else a prompt has"
        )
    return text_at(turns[0], "content" if "content" in turns[0] else "value")


def _role(turn: dict[str, Any]) -> Any:
    return turn.get("role", turn.get("from"))


def _gsm8k(value: Any, source: DataSource) -> tuple[str, str]:
    answer = answer_at(value, source.answer_column)
    if (final := _RATIONALE.search(answer)) is None:
        raise MalformedError(
            f"found an answer that does not end in {_FINAL!r} and the reference, as format gsm8k requires"
        )
    return text_at(value, source.question_column), final[1].strip()


def _columns(value: Any, source: DataSource) -> tuple[str, str]:
    question, answer = text_at(value, source.question_column), answer_at(value, source.answer_column)
    if final := _RATIONALE.search(answer):
        raise MalformedError(f"found an answer that ends in {final[0].strip()!r}, as format gsm8k has it")
    return question, answer


def _task(value: Any, _: DataSource) -> tuple[str, str]:
    answer = value.get("answer")
    # The task's own scorer knows what its answers mean: a text is not looked into.
    is_text = isinstance(answer, str) and bool(answer.strip())
    return text_at(value, "question"), answer if is_text else answer_at(value, "answer")


# --------------------------------------------------------------------------------------------------- how they are told


def _is_messages(value: Any, source: DataSource) -> bool:
    if _has("final_answer")(value, source) or _has(QUESTION, ANSWER)(value, source):
        return False
    turns = _turns_of(value)
    is_list = isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) for turn in turns)
    return is_list and ("role" in turns[0] or (isinstance(value, dict) and "from" in turns[0]))


def _is_gsm8k(value: Any, source: DataSource) -> bool:
    try:
        _gsm8k(value, source)
    except MalformedError:
        return False
    return True


def _has(*paths: str) -> Callable[[Any, DataSource], bool]:
    def detects(value: Any, _: DataSource) -> bool:
        try:
            return isinstance(value, dict) and all(look_up(value, path) is not None for path in paths)
        except KeyError:
            return False

    return detects


def _named(source: DataSource) -> Sequence[str]:
    return source.question_column, source.answer_column


FORMATS = (
    Format(
        "verl",
        '{"prompt": [{"role": "user", "content": Q}], "reward_model": {"ground_truth": A}}',
        "verl, DAPO, DeepScaleR",
        _has("prompt", "reward_model.ground_truth"),
        _verl,
        lambda _: ("prompt", "reward_model"),
    ),
    Format(
        "messages",
        '[{"role": "user", "content": Q}, {"role": "assistant", "content": A}]',
        'role/content turns, ShareGPT; also under "messages", "conversations" or "prompt", and with the answer beside '
        "them",
        _is_messages,
        _messages,
        lambda source: (*_TURNS, source.answer_column),
    ),
    Format(
        "orz",
        '[{"from": "human", "value": Q}, {"from": "assistant", "ground_truth": {"value": A}}]',
        "the paper's training files",
        lambda value, _: isinstance(value, list),
        _orz,
        lambda _: (),
    ),
    Format(
        "orz-eval",
        '{"prompt": [{"from": "user", "value": Q}], "final_answer": A}',
        "the paper's evaluation files",
        lambda value, _: isinstance(value, dict) and {"prompt", "final_answer"} <= value.keys(),
        _orz_eval,
        lambda _: ("prompt", "final_answer"),
    ),
    Format(
        "olympiad",
        '{"question": Q, "final_answer": [A]}',
        "OlympiadBench",
        lambda value, _: (
            isinstance(value, dict) and "question" in value and isinstance(value.get("final_answer"), list)
        ),
        lambda value, _: (text_at(value, "question"), answer_at(value, "final_answer")),
        lambda _: ("question", "final_answer"),
    ),
    Format(
        "gsm8k",
        '{"question": Q, "answer": "a rationale\\n#### A"}',
        "GSM8K; the columns may have other names",
        _is_gsm8k,
        _gsm8k,
        _named,
    ),
    Format(
        "columns",
        '{"question": Q, "answer": A}',
        "any file of named columns",
        lambda *_: True,
        _columns,
        _named,
    ),
)
"""In the order in which they are tried."""
TASK = Format(
    "reasoning-gym",
    "an item of the task",
    "`reasoning-gym://`",
    lambda *_: False,
    _task,
    lambda _: ("question", "answer"),
)
BY_NAME = {each.name: each for each in (*FORMATS, TASK)}
