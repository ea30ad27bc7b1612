"""Every shape of file that people have is read right, or refused with the line of the spec that reads it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from format_files import (
    CHOICES,
    CONTAINERS,
    GPQA,
    HOPELESS,
    MULTIPLE_CHOICE,
    NUMBERS,
    RECORDS,
    REFUSED,
    as_array,
    as_lines,
    as_parquet,
    can_hold,
    orz,
    orz_eval,
    written,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rz_api.resource import load_run
from rz_api.spec import DataSource
from rz_workers.data.datasets import read_source
from rz_workers.data.formats import BY_NAME, FORMATS, TASK
from rz_workers.data.refusals import SPEC_NAMES
from rz_workers.runtime import UserError

ROOT = Path(__file__).parents[3]
BOTH = [(form, container) for form in RECORDS for container in CONTAINERS if can_hold(container, form)]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


def read(uri: str, **source: Any) -> list[tuple[str, str]]:
    return [(each.question, each.reference_answer) for each in read_source(DataSource(uri=uri, **source))]


@pytest.mark.parametrize(("form", "container"), BOTH, ids=[f"{form} in {container}" for form, container in BOTH])
def test_reading(form: str, container: str, tmp_path: Path) -> None:
    pairs = [("1+1?", "2"), ("é\n2+2?", "\\frac{8}{2}")]
    data = CONTAINERS[container](RECORDS[form](*pair) for pair in pairs)
    uri = written(tmp_path, container, data)
    assert read(uri) == read(uri, format=form.split()[0]) == pairs


def test_the_spec_has_the_formats_of_the_table() -> None:
    named = get_args(DataSource.model_fields["format"].annotation)
    assert [*named] == ["auto", *BY_NAME]
    assert {form.split()[0] for form in RECORDS} == {each.name for each in FORMATS}


def test_the_documentation_has_the_table() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    for each in (*FORMATS, TASK):
        record = each.record if each is TASK else f"`{each.record}`"
        assert f"| `{each.name}` | {each.of} | {record} |\n" in page


# --------------------------------------------------------------------------------------------------- any table at all


def is_answer(text: str) -> bool:
    """Neither nothing, nor a list, nor a rationale: those are read for what is in them."""
    return (
        bool(text.strip())
        and text.strip().lower() not in ("nan", "inf", "+inf", "-inf")
        and not ("####" in text or text.strip().startswith('["'))
    )


TABLE = st.lists(st.tuples(TEXTS.filter(str.strip), TEXTS.filter(is_answer)), min_size=1, max_size=4)


@pytest.mark.parametrize("container", ["a.json", "a.jsonl.gz", "a.parquet", "a.csv"])
@pytest.mark.parametrize("form", RECORDS)
@given(pairs=TABLE)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(form: str, container: str, tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    if form == "gsm8k":  # its reference is what stands on the last line
        pairs = [(question, " ".join(answer.split())) for question, answer in pairs]
    if can_hold(container, form):
        data = CONTAINERS[container](RECORDS[form](*pair) for pair in pairs)
        assert read(written(tmp_path, container, data)) == pairs


@pytest.mark.parametrize("form", [form for form in RECORDS if form != "gsm8k"])
@given(numbers=st.lists(st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_of_json_keeps_its_text(form: str, tmp_path: Path, numbers: list[str]) -> None:
    numbers = ["0.00001", *numbers]
    text = as_lines(RECORDS[form]("q", f"<{place}>") for place in range(len(numbers))).decode()
    for place, number in enumerate(numbers):
        text = text.replace(f'"<{place}>"', number)
    assert [answer for _, answer in read(written(tmp_path, "a.jsonl", text.encode()))] == numbers


@given(number=st.floats(allow_nan=False, allow_infinity=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_of_parquet_is_the_same_and_written_as_people_do(tmp_path: Path, number: float) -> None:
    ((_, answer),) = read(written(tmp_path, "a.parquet", as_parquet([{"question": "q", "answer": number}])))
    assert Decimal(answer) == Decimal(repr(number))
    assert len(answer) <= 40
    assert "e" not in answer or abs(number) > 1e15 or abs(number) < 1e-15


@pytest.mark.parametrize(("name", "data", "number"), NUMBERS.values(), ids=NUMBERS)
def test_the_number_of(name: str, data: bytes, number: str, tmp_path: Path) -> None:
    assert read(written(tmp_path, name, data)) == [("q", number)]


# ---------------------------------------------------------------------------------------------------- multiple choice


@pytest.mark.parametrize("container", ["a.json", "a.parquet"])
@pytest.mark.parametrize("record", MULTIPLE_CHOICE.values(), ids=MULTIPLE_CHOICE)
def test_options_are_printed_once_and_the_letter_is_the_reference(record: Any, container: str, tmp_path: Path) -> None:
    source = DataSource(uri=written(tmp_path, container, CONTAINERS[container]([record])))
    (read,) = read_source(source, verifier="choice")
    assert (read.question, read.reference_answer) == (GPQA, "B")
    assert {name: text.strip() for name, text in dict(*json.loads(read.fields).values()).items()} == CHOICES


@pytest.mark.parametrize("choices", [None, [], {}])
def test_no_options_are_none(choices: Any, tmp_path: Path) -> None:
    uri = written(tmp_path, "a.json", as_array([orz_eval("q", "2", choices=choices)]))
    assert read(uri) == [("q", "2")]


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("container", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(("record", "line"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_says_the_line_that_reads_the_record(record: Any, line: str, container: str, tmp_path: Path) -> None:
    uri = written(tmp_path, container, CONTAINERS[container]([record]))
    with pytest.raises(UserError) as caught:
        read_source(DataSource(uri=uri))
    message = str(caught.value)
    assert json.dumps(record)[:40] in message
    assert message.endswith(f": set {line} at this source in spec.data")
    said = dict(part.split(": ") for part in line.split(", "))
    ((question, answer),) = read(uri, **{name: said[spec_name] for name, spec_name in SPEC_NAMES.items()})
    assert question.startswith(("q", "Which"))
    assert answer in ("2", "B")


def test_the_documentation_shows_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "aime.jsonl", as_lines([{"ID": "1", "Problem": "…", "Answer": 33}]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read("aime.jsonl")
    assert str(caught.value) in " ".join((ROOT / "docs" / "data.md").read_text().split())


@pytest.mark.parametrize(("name", "data", "words"), HOPELESS.values(), ids=HOPELESS)
def test_what_no_line_reads(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_source(DataSource(uri=written(tmp_path, name, data)))
    assert words in str(caught.value)
    assert " set " not in str(caught.value)


def test_a_later_record_is_at_fault_itself(tmp_path: Path) -> None:
    records = [{"question": "q", "answer": "2"}, {"question": "q", "final_answer": "2"}]
    with pytest.raises(UserError, match=r"line 2: .*The record is \{.*\}: correct the record or take it out$"):
        read(written(tmp_path, "a.jsonl", as_lines(records)))


def test_a_format_that_is_not_the_files_is_named_in_the_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set format: auto, questionColumn: question, answerColumn: answer at this"):
        read(written(tmp_path, "a.jsonl", as_lines([{"question": "q", "answer": "2"}])), format="orz-eval")


def test_a_long_record_is_shown_in_part(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(written(tmp_path, "a.jsonl", as_lines([{"text": "x" * 10_000}])))
    assert len(str(caught.value)) < 1000


def test_named_columns_win_over_every_other_shape(tmp_path: Path) -> None:
    record = orz_eval("not this", "nor this", problem="q", reference={"value": 2}, reward_model={"ground_truth": "no"})
    uri = written(tmp_path, "a.json", as_array([record]))
    assert read(uri, question_column="problem", answer_column="reference.value") == [("q", "2")]


def test_turns_beside_question_and_answer_are_not_asked(tmp_path: Path) -> None:
    """Many data sets keep a chat of each problem, with a solution in place of the answer."""
    record = RECORDS["columns"]("q", "2") | RECORDS["messages in a field"]("Solve q", "It is 2, because …")
    assert read(written(tmp_path, "a.jsonl", as_lines([record]))) == [("q", "2")]


def test_a_named_column_may_hold_a_rationale_as_gsm8k_has_it(tmp_path: Path) -> None:
    uri = written(tmp_path, "a.jsonl", as_lines([{"q": "q", "solution": "6 * 12\n#### 72"}]))
    assert read(uri, question_column="q", answer_column="solution") == [("q", "72")]
    with pytest.raises(UserError, match="ends in '#### 72', as format gsm8k has it"):
        read(uri, question_column="q", answer_column="solution", format="columns")


def test_the_text_of_a_list_of_one_is_its_element(tmp_path: Path) -> None:
    """Skywork-OR1 has its references so."""
    uri = written(tmp_path, "a.json", as_array([RECORDS["verl"]("q", r'["\\frac{1}{2}"]')]))
    assert read(uri) == [("q", r"\frac{1}{2}")]


# ------------------------------------------------------------------------------------------------- the paper's examples


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("orz-*.yaml")), ids=lambda path: path.stem)
def test_an_example_reads_files_as_the_paper_ships_them(example: Path, tmp_path: Path) -> None:
    data = load_run(example.read_text()).spec.data
    for source in (*data.train, *data.eval):
        name = source.uri.rpartition("/")[2]
        gpqa = orz_eval(GPQA, "B", choices=CHOICES)
        record = orz("q", "2") if source in data.train else gpqa if "gpqa" in name else orz_eval("q", "2")
        here = source.model_copy(update={"uri": written(tmp_path, name, as_array([record, record]))})
        want = (GPQA, "B") if record is gpqa else ("q", "2")
        assert [(each.question, each.reference_answer) for each in read_source(here)] == [want, want]
