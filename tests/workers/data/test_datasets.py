"""Reading questions and reference answers: every format, and what is said of what is malformed."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rz_api.spec import DataSource
from rz_workers.data.datasets import Record, read_source, unique_ids
from rz_workers.runtime import UserError

MATH500 = Path(__file__).parents[4] / "shared" / "data" / "math500.json"


def orz(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "assistant", "ground_truth": {"value": answer}}]


def orz_eval(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"prompt": [{"from": "user", "value": question}], "final_answer": answer, **more}


TWO = [Record("0-0", "1+1?", "2"), Record("0-1", "é\n2+2?", "4")]

FILES = {
    "the paper's training JSON": ("a.json", json.dumps([orz("1+1?", "2"), orz("é\n2+2?", "4")], indent=2)),
    "the paper's training records as JSON lines": (
        "a.jsonl",
        "\n".join(json.dumps(orz(question, answer)) for question, answer in (("1+1?", "2"), ("é\n2+2?", "4"))),
    ),
    "the paper's evaluation JSON": ("a.json", json.dumps([orz_eval("1+1?", "2"), orz_eval("é\n2+2?", "4")])),
    "JSON lines with named columns": (
        "a.jsonl",
        '{"question": "1+1?", "answer": "2"}\n\n{"question": "é\\n2+2?", "answer": "4"}\n',
    ),
    "a JSON array with named columns": (
        "a.json",
        ' [ {"question": "1+1?", "answer": "2"} , {"question": "é\\n2+2?", "answer": "4"} ] \n',
    ),
    "JSON lines under the name .json": (
        "a.json",
        '{"question": "1+1?", "answer": "2"}\n{"question": "é\\n2+2?", "answer": "4"}',
    ),
    "a byte order mark": (
        "a.jsonl",
        '\ufeff{"question": "1+1?", "answer": 2}\r\n{"question": "é\\n2+2?", "answer": 4}',
    ),
}


@pytest.mark.parametrize(("name", "text"), FILES.values(), ids=FILES)
def test_reading(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_source(DataSource(uri=str(tmp_path / name))) == TWO


def test_reading_parquet_with_columns_of_other_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": ["1+1?", "é\n2+2?"], "a": [2, 4], "other": [0, 0]}), tmp_path / "a.parquet")
    source = DataSource(uri=str(tmp_path / "a.parquet"), question_column="q", answer_column="a")
    assert read_source(source) == TWO


@pytest.mark.parametrize("scheme", ["file://", "memory:/"])
def test_reading_from_a_url(tmp_path: Path, scheme: str) -> None:
    uri = f"{scheme}{tmp_path}/deep/a.jsonl"
    with fsspec.open(uri, "w", auto_mkdir=True) as file:
        file.write('{"question": "1+1?", "answer": "2"}')
    assert read_source(DataSource(uri=uri)) == TWO[:1]


def test_a_relative_path_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "1+1?", "answer": "2"}')
    monkeypatch.chdir(tmp_path)
    assert read_source(DataSource(uri="a.jsonl")) == read_source(DataSource(uri="./a.jsonl")) == TWO[:1]


def test_the_papers_math500_is_read_as_it_is() -> None:
    if not MATH500.exists():
        pytest.skip(f"{MATH500} is not there (it is not part of the repository)")
    records = read_source(DataSource(uri=str(MATH500)), "math500")
    assert (len(records), len({record.prompt_id for record in records})) == (500, 500)
    assert records[0] == Record(
        "math500-0",
        "Convert the point $(0,3)$ in rectangular coordinates to polar coordinates.  Enter your answer in the form "
        "$(r,\\theta),$ where $r > 0$ and $0 \\le \\theta < 2 \\pi.$",
        "\\left( 3, \\frac{\\pi}{2} \\right)",
    )


# ------------------------------------------------------------------------------------------------------------ ids


OTHER_FIELDS = {
    "a column": (
        "a.jsonl",
        '{"id": 7, "question": "q", "answer": "A", "options": ["x", "é"]}',
        {"options": {"A": "x", "B": "é"}},
    ),
    "the paper's choices": ("a.json", json.dumps([orz_eval("q", "A", choices=["x"])]), {"choices": {"A": "x"}}),
    "none": ("a.json", json.dumps([orz("q", "A")]), {}),
}


@pytest.mark.parametrize(("name", "text", "fields"), OTHER_FIELDS.values(), ids=OTHER_FIELDS)
def test_a_verifier_that_reads_them_gets_the_records_other_fields(
    tmp_path: Path, name: str, text: str, fields: dict[str, Any]
) -> None:
    (tmp_path / name).write_text(text)
    source = DataSource(uri=str(tmp_path / name))
    for verifier in ("my.rewards:grade", "choice"):
        assert [json.loads(record.fields) for record in read_source(source, verifier=verifier)] == [fields]
    assert [record.fields for record in read_source(source, verifier="math-verify")] == ["{}"]


def test_a_verifier_that_reads_them_gets_the_other_columns_of_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["q"], "answer": [2], "unit": ["cm"]}), tmp_path / "a.parquet")
    (record,) = read_source(DataSource(uri=str(tmp_path / "a.parquet")), verifier="my.rewards:grade")
    assert json.loads(record.fields) == {"unit": "cm"}


NO_FIELDS = {
    "a solution of a megabyte": (pa.array(["x" * (1 << 20)]), "bytes of fields beside question and answer; at most"),
    "a date": (pa.array([date(2026, 1, 2)]), "its other fields are no JSON values"),
    "a number that is none": (pa.array([float("nan")]), "its other fields are no JSON values"),
}


@pytest.mark.parametrize(("column", "words"), NO_FIELDS.values(), ids=NO_FIELDS)
def test_fields_that_no_message_can_hold_are_refused_with_their_row(tmp_path: Path, column: Any, words: str) -> None:
    pq.write_table(pa.table({"question": ["q"], "answer": [2], "more": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=f"row 1: .*{words}"):
        read_source(DataSource(uri=str(tmp_path / "a.parquet")), verifier="my.rewards:grade")
    assert len(read_source(DataSource(uri=str(tmp_path / "a.parquet")), verifier="choice")) == 1


def test_a_given_id_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": "aime-1", "question": "a", "answer": 1}\n{"question": "b", "answer": 1}\n'
        '{"id": 7, "question": "c", "answer": 1}'
    )
    records = read_source(DataSource(uri=str(tmp_path / "a.jsonl")), "3")
    assert [record.prompt_id for record in records] == ["aime-1", "3-1", "7"]


def test_duplicate_problems_get_ids_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x", "question": "a", "answer": 1}\n' * 3)
    records = read_source(DataSource(uri=str(tmp_path / "a.jsonl")))
    assert [record.prompt_id for record in records] == ["x", "x#2", "x#3"]


def test_a_made_up_id_avoids_a_given_one() -> None:
    given = [Record(name, "q", "a") for name in ("x", "x", "x#2", "x")]
    assert [record.prompt_id for record in unique_ids(given)] == ["x", "x#3", "x#2", "x#4"]


# ------------------------------------------------------------------------------------------------------ malformed

GOOD = '{"question": "a", "answer": 1}'
MALFORMED = {
    "a line that is not JSON": ("a.jsonl", f"{GOOD}\nnot json\n", "line 2: found invalid JSON"),
    "blank lines are counted": ("a.jsonl", f"{GOOD}\n\n\nnull\n", "line 4: found null; .* must be an object"),
    "a record without an answer": ("a.jsonl", '{"question": "a"}', r"line 1: found the fields 'question'; a reference"),
    "an empty question": ("a.jsonl", '{"question": " ", "answer": 1}', "line 1: found an empty text; a question"),
    "an empty answer": ("a.jsonl", '{"question": "a", "answer": ""}', "line 1: found an empty text; a reference"),
    "a true answer": ("a.jsonl", '{"question": "a", "answer": true}', "line 1: found a truth value; a reference"),
    "a null answer": ("a.jsonl", '{"question": "a", "answer": null}', "line 1: found null; a reference"),
    "columns of other names": ("a.jsonl", '{"q": "a", "a": 1}', "line 1: found the fields 'q', 'a'; a question"),
    "a malformed record of an array": (
        "a.json",
        json.dumps([orz("a", "1"), orz("b", "2")[:1]], indent=1),
        r"record 2 \(line \d+\): found a list of 1; format orz requires",
    ),
    "turns in the wrong order": (
        "a.json",
        json.dumps([orz("a", "1")[::-1]]),
        r"record 1 \(line 1\): found turns from 'assistant' and 'human'",
    ),
    "a turn without its truth": (
        "a.json",
        '[[{"from": "human", "value": "a"}, {"from": "assistant", "value": "1"}]]',
        r"record 1 \(line 1\): the assistant turn has no \"ground_truth\"",
    ),
    "an array that breaks off": ("a.json", f"[\n{GOOD},\n{GOOD}", r"line 3: found no ',' or '\]' after record 2"),
    "an array with invalid JSON inside": ("a.json", f"[\n{GOOD},\n{{x}}]", "line 3: found invalid JSON in record 2"),
    "text after an array": ("a.json", f"[{GOOD}]\n[]", "line 2: found text after the array"),
    "an evaluation record without a prompt": (
        "a.json",
        '[{"prompt": null, "final_answer": "1"}]',
        r"record 1 \(line 1\): found null as \"prompt\"",
    ),
    "choices that are no list": (
        "a.json",
        json.dumps([orz_eval("a", "1", choices="AB")]),
        r"record 1 \(line 1\): found a text as \"choices\"",
    ),
    "bytes that are no text": ("a.jsonl", f"{GOOD}\n\udcff", "line 2: found bytes that are not UTF-8"),
    "an empty file": ("a.jsonl", "", "found no record"),
    "an empty array": ("a.json", "[]", "found no record"),
    "a Parquet file that is none": ("a.parquet", "text", "found a file that is not Parquet"),
}


@pytest.mark.parametrize(("name", "text", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_named_with_its_place(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=rf"^{tmp_path / name}[,:] {reason}"):
        read_source(DataSource(uri=str(tmp_path / name)))


def test_the_line_of_a_record_of_a_long_array_is_right(tmp_path: Path) -> None:
    records: list[Any] = [{"question": "a", "answer": 1}] * 40
    records[29] = {"question": "a"}
    text = json.dumps(records, indent=2)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_source(DataSource(uri=str(tmp_path / "a.json")))
    (line,) = [number for number, part in enumerate(text.split("\n"), 1) if part == '    "question": "a"']
    assert f"record 30 (line {line - 1})" in str(caught.value)


def test_a_null_in_parquet_is_named_with_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a", "b"], "answer": ["1", None]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 2: found null; a reference answer"):
        read_source(DataSource(uri=str(tmp_path / "a.parquet")))


def test_a_missing_column_in_parquet_is_named_with_its_field(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"], "solution": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"row 1: found the fields 'question', 'solution'; .* set .*answerColumn: solution"
    ):
        read_source(DataSource(uri=str(tmp_path / "a.parquet")))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        pytest.param("{}/none.jsonl", "there is no such file", id="no file"),
        pytest.param("{}/none/none.jsonl", "there is no such file", id="no folder"),
        pytest.param("memory://none/none.jsonl", "there is no such file", id="no object"),
        pytest.param("{}/", "found a folder", id="a folder's name"),
        pytest.param("{}", "cannot be read", id="a folder"),
        pytest.param("ftpx://x/a.jsonl", "use a path, or a URL that fsspec knows", id="no such kind of storage"),
    ],
)
def test_a_file_that_cannot_be_read_is_the_users_to_change(tmp_path: Path, uri: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_source(DataSource(uri=uri.format(tmp_path)))


# --------------------------------------------------------------------------------------------------- reasoning-gym


def test_a_procedural_task_gives_the_same_problems_for_the_same_seed() -> None:
    uri = "reasoning-gym://chain_sum?size=5&seed=3"
    records = read_source(DataSource(uri=uri))
    assert records == read_source(DataSource(uri=uri))
    assert records != read_source(DataSource(uri=uri.replace("seed=3", "seed=4")))
    assert [record.prompt_id for record in records] == [f"0-{row}" for row in range(5)]


def test_a_procedural_task_takes_its_own_options() -> None:
    (record,) = read_source(
        DataSource(uri="reasoning-gym://chain_sum?size=1&seed=3&min_terms=2&max_terms=2&max_digits=1")
    )
    assert sum(record.question.count(sign) for sign in "+-") == 1


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        pytest.param("reasoning-gym://no_such_task?size=5&seed=3", "check the task's name", id="no such task"),
        pytest.param("reasoning-gym://chain_sum?size=5&colour=1", "check the task's name and its options", id="option"),
        pytest.param("reasoning-gym://chain_sum?seed=3", "found size None and seed 3", id="no size"),
        pytest.param("reasoning-gym://chain_sum?size=many", "found size 'many'", id="a size that is no number"),
    ],
)
def test_a_procedural_task_that_cannot_be_made_is_the_users_to_change(uri: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_source(DataSource(uri=uri))


def test_without_the_package_a_procedural_task_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install 'reasonerzero\[reasoning-gym\]'"):
        read_source(DataSource(uri="reasoning-gym://chain_sum?size=5"))


def test_the_format_reasoning_gym_needs_its_uri() -> None:
    with pytest.raises(UserError, match=r"requires a uri of the form reasoning-gym://TASK\?size=N&seed=S"):
        read_source(DataSource(uri="a.jsonl", format="reasoning-gym"))
