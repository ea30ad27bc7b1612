"""The prompts of a run: preparation, fingerprint, publication, and refusal of data that changed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from rz_api.run import ResolvedRun
from rz_api.spec import DataSource, ReasonerZeroRunSpec
from rz_workers.data import procedural
from rz_workers.data.earlier import Earlier, read_earlier
from rz_workers.data.prompt_table import (
    PromptRow,
    decode,
    encode,
    fingerprint,
    prepare,
    publish_data,
    read_table,
    source_names,
)
from rz_workers.runtime import UserError
from rz_workers.storage.objects import CorruptObjectError, ObjectMissingError, ObjectStore
from rz_workers.storage.records import DroppedPrompt
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.verifier_code import read_code


class Characters:
    """A tokenizer of single characters with token 1 as BOS."""

    bos_token = "\x01"
    bos_token_id = 1

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


MakeSpec = Callable[..., ReasonerZeroRunSpec]


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    """A spec over two training files and one evaluation set, given as question -> answer."""

    def make(
        first: dict[str, str] | None = None,
        second: dict[str, str] | None = None,
        held_out: dict[str, str] | None = None,
        max_prompt_tokens: int = 100,
        template: str = "Q: {question} =?",
    ) -> ReasonerZeroRunSpec:
        problems = {
            "first": first or {"1+1": "2", "2+2": "4"},
            "second": second or {"3+3": "6"},
            "held-out": held_out or {"4+4": "8"},
        }
        for name, rows in problems.items():
            lines = [json.dumps({"question": question, "answer": answer}) for question, answer in rows.items()]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        uris = {name: str(tmp_path / f"{name}.jsonl") for name in problems}
        return ReasonerZeroRunSpec.model_validate(
            {
                "model": {"name": "base"},
                "storage": {"uri": str(tmp_path / "run")},
                "data": {
                    "train": [{"uri": uris["first"]}, {"uri": uris["second"]}],
                    "eval": [{"name": "held-out", "uri": uris["held-out"]}],
                    "promptTemplate": template,
                    "maxPromptTokens": max_prompt_tokens,
                },
                "algorithm": {"promptsPerStep": 2, "epochs": 5},
            }
        )

    return make


def open_folder(spec: ReasonerZeroRunSpec) -> RunFolder:
    run = ResolvedRun(name="tiny", uid="uid-1", spec=spec)
    return RunFolder.claim(ObjectStore(spec.storage.uri), run)


def row(prompt_id: str, question: str, answer: str, source: str) -> PromptRow:
    text = f"Q: {question} =?"
    return PromptRow(prompt_id, text, (1, *map(ord, text)), answer, source, "math-verify", question)


def test_sources_are_concatenated_rendered_and_tokenized(make_spec: MakeSpec) -> None:
    prepared = prepare(make_spec(), Characters())
    assert prepared.train == (
        row("0-0", "1+1", "2", "first"),
        row("0-1", "2+2", "4", "first"),
        row("1-0", "3+3", "6", "second"),
    )
    assert prepared.eval == {"held-out": (row("held-out-0", "4+4", "8", "held-out"),)}
    assert prepared.dropped == ()


def test_a_template_with_the_bos_text_in_front_gives_one_bos_and_a_line_in_the_log(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    without = prepare(make_spec(), Characters())
    assert "BOS" not in caplog.text
    with_text = prepare(make_spec(template="\x01Q: {question} =?"), Characters())
    tables = [[row.prompt_token_ids for row in (*one.train, *one.eval["held-out"])] for one in (without, with_text)]
    assert tables[0] == tables[1]
    assert caplog.text.count("begins with the BOS text") == 1


def test_training_prompts_over_the_limit_are_dropped_and_listed(make_spec: MakeSpec) -> None:
    prepared = prepare(make_spec(first={"1+1": "2", "10+10": "20"}, max_prompt_tokens=10), Characters())
    assert [kept.prompt_id for kept in prepared.train] == ["0-0", "1-0"]
    assert prepared.dropped == (DroppedPrompt(prompt_id="0-1", tokens=12),)


def test_an_evaluation_has_all_problems_of_its_set(make_spec: MakeSpec) -> None:
    spec = make_spec(held_out={"4+4": "8", "40+40": "80"}, max_prompt_tokens=10)
    with pytest.raises(UserError, match=r"eval held-out: found 1 of 2 problems .* of 12 tokens \(held-out-1\)"):
        prepare(spec, Characters())


def test_a_run_of_an_earlier_release_goes_on_without_the_problems_that_it_left_out(make_spec: MakeSpec) -> None:
    spec = make_spec(held_out={"4+4": "8", "40+40": "80"}, max_prompt_tokens=10)
    prepared = prepare(spec, Characters(), Earlier(dropped=frozenset({"held-out-1"})))
    folder = open_folder(spec)
    assert publish_data(folder, spec, prepared).eval_sets == {"held-out": 1}
    assert prepare(spec, Characters(), read_earlier(folder, spec)) == prepared


def test_a_limit_that_drops_everything_is_the_users_to_change(make_spec: MakeSpec) -> None:
    with pytest.raises(UserError, match=r"data\.train: found 3 prompts, the shortest of 10 tokens.*raise data\.max"):
        prepare(make_spec(max_prompt_tokens=9), Characters())


def test_a_tokenizer_that_loses_text_stops_the_run(make_spec: MakeSpec) -> None:
    class Deaf(Characters):
        def encode(self, text: str, **_: Any) -> list[int]:
            return super().encode(text.replace("+", ""))

    with pytest.raises(UserError, match="does not round-trip the prompt"):
        prepare(make_spec(), Deaf())


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        pytest.param({}, True, id="nothing"),
        pytest.param({"held_out": {"5+5": "10"}}, True, id="only the evaluation set"),
        pytest.param({"first": {"1+1": "2", "2+2": "5"}}, False, id="an answer"),
        pytest.param({"first": {"1+1": "2", "2+3": "4"}}, False, id="a question"),
        pytest.param({"first": {"2+2": "4", "1+1": "2"}}, False, id="the order"),
        pytest.param({"second": {"3+3": "6", "5+5": "10"}}, False, id="one problem more"),
    ],
)
def test_the_fingerprint_is_of_the_training_prompts_in_order(
    make_spec: MakeSpec, changed: dict[str, Any], same: bool
) -> None:
    before = prepare(make_spec(), Characters()).fingerprint
    assert (prepare(make_spec(**changed), Characters()).fingerprint == before) is same


def test_the_fingerprint_does_not_change_between_versions_of_this_project() -> None:
    assert fingerprint([PromptRow("0-0", "text is not part of it", (1, 2), "é")]) == (
        "07208477f6bdf61570174ceee18e3d0bb914cec13da44c313ec29d39e17377e0"
    )


def test_published_tables_come_back(make_spec: MakeSpec) -> None:
    spec = make_spec()
    prepared, folder = prepare(spec, Characters()), open_folder(spec)
    manifest = publish_data(folder, spec, prepared)
    reader = RunFolder.open(ObjectStore(spec.storage.uri))
    assert reader is not None
    assert reader.data_manifest() == manifest
    assert (manifest.num_prompts, manifest.eval_sets, manifest.fingerprint) == (
        3,
        {"held-out": 1},
        prepared.fingerprint,
    )
    assert read_table(reader, "train") == list(prepared.train)
    assert read_table(reader, "eval-held-out") == list(prepared.eval["held-out"])


def test_the_manifest_says_how_many_steps_the_run_takes(make_spec: MakeSpec) -> None:
    """5 epochs of 3 prompts, 2 a step: 15 / 2, rounded up."""
    spec = make_spec()
    assert publish_data(open_folder(spec), spec, prepare(spec, Characters())).total_steps == 8


def test_publishing_again_writes_nothing(make_spec: MakeSpec) -> None:
    spec = make_spec()
    first = publish_data(open_folder(spec), spec, prepare(spec, Characters()))
    store = ObjectStore(spec.storage.uri)
    before = {key: store.get(key) for key in store.list("")}
    assert publish_data(open_folder(spec), spec, prepare(spec, Characters())) == first
    assert {key: store.get(key) for key in store.list("")} == before


def test_tables_without_a_manifest_do_not_count_and_are_written_again(make_spec: MakeSpec) -> None:
    spec = make_spec()
    folder = open_folder(spec)
    folder.store.put_new("data/train.parquet", b"half of it")
    with pytest.raises(ObjectMissingError, match=r"names no 'data/train\.parquet'"):
        read_table(folder, "train")
    publish_data(folder, spec, prepare(spec, Characters()))
    assert len(read_table(folder, "train")) == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        pytest.param({"second": {"3+4": "7"}}, r"data\.train: found 3 prompts with fingerprint", id="training data"),
        pytest.param({"held_out": {"4+5": "9"}}, r"data\.eval: held-out", id="an evaluation set"),
    ],
)
def test_a_resume_with_other_data_is_refused(make_spec: MakeSpec, changed: dict[str, Any], reason: str) -> None:
    spec = make_spec()
    publish_data(open_folder(spec), spec, prepare(spec, Characters()))
    other = make_spec(**changed)
    with pytest.raises(UserError, match=rf"the data changed since .*{reason}.*restore the files"):
        publish_data(open_folder(other), other, prepare(other, Characters()))


def test_a_damaged_table_is_detected(make_spec: MakeSpec) -> None:
    spec = make_spec()
    folder = open_folder(spec)
    publish_data(folder, spec, prepare(spec, Characters()))
    folder.store.put("data/train.parquet", folder.store.get("data/train.parquet")[:-1] + b"X")
    with pytest.raises(CorruptObjectError, match=r"data/train\.parquet"):
        read_table(folder, "train")


def test_duckdb_reads_the_prompt_table(make_spec: MakeSpec) -> None:
    spec = make_spec()
    publish_data(open_folder(spec), spec, prepare(spec, Characters()))
    query = f"SELECT prompt_id, len(prompt_token_ids) FROM '{spec.storage.uri}/data/train.parquet' ORDER BY 1"
    assert duckdb.sql(query).fetchall() == [("0-0", 10), ("0-1", 10), ("1-0", 10)]


# ------------------------------------------------------------------------------------------------------- verifiers

TASK = "reasoning-gym://countdown?size=2"


def changed(spec: ReasonerZeroRunSpec, train: list[dict[str, Any]], verifier: str = "math-verify") -> Any:
    """The spec with other training sources."""
    document = spec.model_dump(by_alias=True)
    document["data"] |= {"train": train, "maxPromptTokens": 4000}
    document["reward"]["verifier"] = verifier
    return ReasonerZeroRunSpec.model_validate(document)


def test_a_prompt_names_what_grades_it_and_holds_what_that_reads(make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "options.jsonl").write_text('{"id": 7, "question": "q", "answer": "A", "options": ["x", "y"]}')
    (tmp_path / "grade.py").write_text("def grade(example): return 1")
    options, own = str(tmp_path / "options.jsonl"), f"{tmp_path}/grade.py:grade"
    sources = [{"uri": options}, {"uri": options, "verifier": "choice"}, {"uri": TASK}, {"uri": TASK, "verifier": own}]
    prepared = prepare(changed(make_spec(), sources, "robust"), Characters())
    rows = {row.source: row for row in prepared.train}
    assert [(name, row.verifier) for name, row in rows.items()] == [
        ("options", "robust"),
        ("options-2", "choice"),
        ("countdown", TASK),
        ("countdown-2", own),
    ]
    assert json.loads(rows["options"].fields) == {}
    assert json.loads(rows["options-2"].fields) == {"options": {"A": "x", "B": "y"}}
    assert json.loads(rows["countdown"].fields)["item"]["question"] == rows["countdown"].question
    assert "target" in json.loads(rows["countdown-2"].fields)["metadata"]


def test_a_run_that_starts_again_has_the_items_that_it_was_started_with(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = changed(make_spec(), [{"uri": TASK}])
    folder = open_folder(spec)
    assert read_earlier(None, spec) == read_earlier(folder, spec) == Earlier()
    prepared = prepare(spec, Characters())
    publish_data(folder, spec, prepared)

    monkeypatch.setattr(procedural, "make", pytest.fail)
    assert prepare(spec, Characters(), read_earlier(folder, spec)) == prepared


def test_a_run_is_not_evaluated_on_the_items_that_it_is_trained_on(make_spec: MakeSpec) -> None:
    document = changed(make_spec(), [{"uri": TASK}]).model_dump(by_alias=True)
    document["data"]["eval"] = [{"name": "heldout", "uri": TASK + "&seed=1"}]
    with pytest.raises(UserError, match="set seed=2 in its uri"):
        prepare(ReasonerZeroRunSpec.model_validate(document), Characters())


def test_a_table_of_an_earlier_release_is_read(make_spec: MakeSpec) -> None:
    prepared = prepare(make_spec(), Characters())
    table = pq.read_table(io.BytesIO(encode(prepared.train)))
    buffer = io.BytesIO()
    pq.write_table(table.select(["prompt_id", "prompt", "prompt_token_ids", "reference_answer"]), buffer)
    assert decode(buffer.getvalue()) == [
        replace(row, source="", verifier="", question="", fields="{}") for row in prepared.train
    ]


def test_a_run_keeps_the_file_of_its_verifier(make_spec: MakeSpec, tmp_path: Path) -> None:
    file = tmp_path / "grade.py"
    file.write_text("def grade(example):\n    return 0.5\n")
    spec = changed(make_spec(), [{"uri": str(tmp_path / "first.jsonl")}], f"{file}:grade")
    folder = open_folder(spec)
    manifest = publish_data(folder, spec, prepare(spec, Characters()))
    sha256 = manifest.verifiers[f"{file}:grade"]
    assert read_code(folder, sha256) == file.read_bytes()
    assert publish_data(open_folder(spec), spec, prepare(spec, Characters())) == manifest
    file.write_text("def grade(example):\n    return 1.0\n")
    with pytest.raises(UserError, match=r"the code of the verifier .*grade\.py:grade is not what the run was started"):
        publish_data(open_folder(spec), spec, prepare(spec, Characters()))


NO_VERIFIER: dict[str, tuple[str, str]] = {
    "no function of that name": ("def grades(example): return 1", "found no function grade; one at the top level"),
    "no Python": ("def grade(", "found no Python in UTF-8"),
    "too long": ("#" * (1 << 20) + "\ndef grade(example): return 1", "at most 1048576: shorten it"),
}


@pytest.mark.parametrize(("text", "words"), NO_VERIFIER.values(), ids=NO_VERIFIER)
def test_a_file_with(text: str, words: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "grade.py").write_text(text)
    spec = changed(make_spec(), [{"uri": str(tmp_path / "first.jsonl")}], f"{tmp_path}/grade.py:grade")
    with pytest.raises(UserError, match=words):
        prepare(spec, Characters())


def test_a_verifiers_file_is_not_executed_by_the_trainer(make_spec: MakeSpec, tmp_path: Path) -> None:
    """It has credentials; the reward service has none."""
    (tmp_path / "grade.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef grade(example): return 1\n")
    spec = changed(make_spec(), [{"uri": str(tmp_path / "first.jsonl")}], f"{tmp_path}/grade.py:grade")
    publish_data(open_folder(spec), spec, prepare(spec, Characters()))
    assert not (tmp_path / "ran").exists()


SOURCES = {
    ("s3://b/orz_math_57k.json",): ("orz_math_57k",),
    ("a/train.jsonl", "b/train.jsonl", "c/train.parquet"): ("train", "train-2", "train-3"),
    ("reasoning-gym://countdown?size=8&seed=1.5",): ("countdown",),
    ("data/with space & more.json",): ("with-space-more",),
}


@pytest.mark.parametrize(("uris", "names"), SOURCES.items())
def test_sources_have_names_for_charts(uris: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert source_names([DataSource(uri=uri) for uri in uris]) == names
