"""A small file of every shape that people have, and what is to be read from it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def orz(question: str, answer: Any) -> Any:
    return [{"from": "human", "value": question}, {"from": "assistant", "ground_truth": {"value": answer}}]


def orz_eval(question: str, answer: Any, **more: Any) -> Any:
    return {"prompt": [{"from": "user", "value": question}], "final_answer": answer, **more}


def turns(question: str, answer: Any) -> Any:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def verl(question: str, answer: Any) -> Any:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": question, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4"},
    }


RECORDS: dict[str, Callable[[str, Any], Any]] = {
    "orz": orz,
    "orz-eval": orz_eval,
    "verl": verl,
    "messages": turns,
    "messages in a field": lambda question, answer: {"messages": turns(question, answer)},
    "messages of a ShareGPT file": lambda question, answer: {
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    },
    "messages with the answer beside them": lambda question, answer: {
        "prompt": turns(question, answer)[:1],
        "answer": answer,
    },
    "olympiad": lambda question, answer: {"question": question, "final_answer": [answer], "is_multiple_answer": False},
    "gsm8k": lambda question, answer: {"question": question, "answer": f"6 * 12 = 72\n#### {answer}"},
    "columns": lambda question, answer: {"question": question, "answer": answer},
}
"""Format, and where one has several forms the form -> a record of it."""


def as_array(records: Iterable[Any]) -> bytes:
    return json.dumps(list(records), indent=1, ensure_ascii=False).encode()


def as_lines(records: Iterable[Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def as_parquet(records: Iterable[Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records)), buffer)
    return buffer.getvalue()


def as_csv(records: Iterable[Any]) -> bytes:
    text = io.StringIO(newline="")
    records = list(records)
    writer = csv.DictWriter(text, records[0], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


CONTAINERS: dict[str, Callable[[Iterable[Any]], bytes]] = {
    "a.json": as_array,
    "a.jsonl": as_lines,
    "array.jsonl": as_array,
    "lines.json": as_lines,
    "a.parquet": as_parquet,
    "a.csv": as_csv,
    "a.json.gz": lambda records: gzip.compress(as_array(records)),
    "a.jsonl.gz": lambda records: gzip.compress(as_lines(records)),
    "a.csv.gz": lambda records: gzip.compress(as_csv(records)),
}
"""Name -> its bytes."""


def can_hold(container: str, form: str) -> bool:
    """A table's rows are objects, and those of CSV have only texts."""
    if "csv" in container:
        return form in ("gsm8k", "columns")
    return form not in ("orz", "messages") or "parquet" not in container


GPQA = "Which is red?\nA. grass\nB. blood\nC. the sky\nD. snow"
CHOICES = {"A": "grass", "B": "blood", "C": "the sky", "D": "snow"}
ASKED, TEXTS = "Which is red?", list(CHOICES.values())
MULTIPLE_CHOICE: dict[str, Any] = {
    "the paper's GPQA: an object, and printed already": orz_eval(GPQA, "B", choices=CHOICES),
    "an object that is not printed": orz_eval(ASKED, "B", choices=CHOICES),
    "a list, and the place of the right one": {"question": ASKED, "choices": TEXTS, "answer": 1},
    "a list, and its letter": {"question": ASKED, "options": TEXTS, "answer": "(b)"},
    "a list, and its text": {"question": ASKED, "options": TEXTS, "answer": "blood"},
    "a list with letters, as AQuA has": {
        "question": ASKED,
        "options": ["A)grass", "B)blood", "C)the sky", "D)snow"],
        "answer": "B",
    },
    "texts and labels, as ARC has": {
        "question": ASKED,
        "choices": {"text": TEXTS, "label": ["A", "B", "C", "D"]},
        "answer": "B",
    },
    "texts and labels that are numbers": {
        "question": ASKED,
        "choices": {"text": TEXTS, "label": ["1", "2", "3", "4"]},
        "answer": "2",
    },
    "printed, with other blanks": {"question": GPQA, "options": [f" {text} " for text in TEXTS], "answer": 1},
}
"""Each comes to GPQA, CHOICES and B."""

NUMBERS: dict[str, tuple[str, bytes, str]] = {
    "JSON 1e16": ("a.jsonl", b'{"question": "q", "answer": 1e16}', "1e16"),
    "JSON 0.00001": ("a.jsonl", b'{"question": "q", "answer": 0.00001}', "0.00001"),
    "JSON 2.50": ("a.json", b'[{"question": "q", "answer": 2.50}]', "2.50"),
    "JSON of 5,000 digits": ("a.jsonl", b'{"question": "q", "answer": %s}' % (b"7" * 5000), "7" * 5000),
    "CSV 007": ("a.csv", b"question,answer\nq,007\n", "007"),
    "CSV 1.50": ("a.csv", b"question,answer\nq,1.50\n", "1.50"),
    "Parquet 0.00001": ("a.parquet", as_parquet([{"question": "q", "answer": 0.00001}]), "0.00001"),
    "Parquet 1e16": ("a.parquet", as_parquet([{"question": "q", "answer": 1e16}]), "10000000000000000"),
    "Parquet 1e300": ("a.parquet", as_parquet([{"question": "q", "answer": 1e300}]), "1e300"),
    "Parquet 72.0": ("a.parquet", as_parquet([{"question": "q", "answer": 72.0}]), "72"),
    "Parquet decimal": ("a.parquet", as_parquet([{"question": "q", "answer": Decimal("2.50")}]), "2.50"),
    "nested Parquet 0.5": ("a.parquet", as_parquet([verl("q", 0.5)]), "0.5"),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "other names": ({"problem": "q", "final_answer": "2"}, "questionColumn: problem, answerColumn: final_answer"),
    "MATH-500 of the hub": (
        {"problem": "q", "solution": "long", "answer": "2", "unique_id": "x"},
        "questionColumn: problem, answerColumn: answer",
    ),
    "AIME of the hub": ({"ID": "1", "Problem": "q", "Answer": 2}, "questionColumn: Problem, answerColumn: Answer"),
    "nested columns": (
        {"extra": {"question": "q"}, "reward": {"target": "2"}},
        "questionColumn: extra.question, answerColumn: reward.target",
    ),
    "ARC's answerKey": (
        {"question": ASKED, "choices": {"text": TEXTS, "label": ["A", "B", "C", "D"]}, "answerKey": "B"},
        "questionColumn: question, answerColumn: answerKey",
    ),
    "a turn of a system": (
        {"prompt": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}], "answer": "2"},
        "questionColumn: prompt.1.content, answerColumn: answer",
    ),
    "several answers": (
        {"question": "q", "final_answer": ["2", "3"]},
        "questionColumn: question, answerColumn: final_answer.0",
    ),
}
"""A first record that is refused, and the line that would read it."""

HOPELESS: dict[str, tuple[str, bytes, str]] = {
    "NaN": ("a.jsonl", b'{"question": "q", "answer": NaN}', "found NaN under 'answer'"),
    "Infinity": ("a.jsonl", b'{"question": "q", "answer": -Infinity}', "found -Infinity under 'answer'"),
    "NaN of pandas": ("a.csv", b"question,answer\nq,nan\n", "found nan under 'answer'"),
    "NaN in Parquet": ("a.parquet", as_parquet([{"question": "q", "answer": float("nan")}]), "found nan under"),
    "an answer that is no option": (
        "a.json",
        as_array([orz_eval(GPQA, "E", choices=CHOICES)]),
        "the answer 'E', which means no option of \"choices\" (A, B, C, D)",
    ),
    "a number that is place and option": (
        "a.json",
        as_array([{"question": "q", "choices": [2, 1, 0], "answer": 2}]),
        "which means A or C",
    ),
    "bytes that are not gzip": ("a.jsonl.gz", b"{}", "found a file that is not gzip"),
    "a gzip that breaks off": ("a.jsonl.gz", gzip.compress(b"{}" * 99)[:-9], "found a file that is not gzip"),
    "an empty CSV": ("a.csv", b"", "found a file that is not CSV"),
    "columns of one name": ("a.csv", b"question,answer,answer\nq,1,2\n", "found two columns 'answer'"),
}


def written(folder: Path, name: str, data: bytes) -> str:
    """The file's path."""
    (folder / name).write_bytes(data)
    return str(folder / name)
