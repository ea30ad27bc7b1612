#!/usr/bin/env bash
# DuckDB reads some texts of a JSON file as dates and times, and gives other texts back.
#
# Versions: duckdb 2.0.1, pyarrow 26.0.1.
# One would expect: a text in JSON stays this text. JSON has no dates, and answers to puzzles and sums are texts such as
#   "2-3-5" and "3:4:5".
# Seen: a column whose first 20480 texts all look like a date, a time or a UUID gets that type. "2-3-5" comes back as
#   2002-03-05, "8-15-17" as 2017-08-15, "3:4:5" as 03:04:05. With one other text among them all stay as they are, and
#   texts that look like numbers stay texts ("007"), so that one does not suspect it. The Parquet file that one makes
#   of the JSON lines holds dates. pyarrow's JSON reader keeps "2-3-5", but makes a timestamp of "2024-05-01 10:00",
#   which DuckDB keeps. No error, no warning. With the column's type named (`columns = {answer: 'VARCHAR'}`) the texts
#   stay.
# Output:
#   answers                   DuckDB, JSON lines         pyarrow, JSON lines
#   2-3-5, 5-7-11             2002-03-05, 2005-07-11     2-3-5, 5-7-11
#   8-15-17                   2017-08-15                 8-15-17
#   3:4:5, 1:2:3              03:04:05, 01:02:03         3:4:5, 1:2:3
#   2-3-5, 4                  2-3-5, 4                   2-3-5, 4
#   007, 1.50                 007, 1.50                  007, 1.50
#   2024-05-01 10:00          2024-05-01 10:00           2024-05-01 10:00:00
#   2-3-5, 5-7-11 with the type named: 2-3-5, 5-7-11
#   2-3-5, 5-7-11 through a Parquet file: [datetime.date(2002, 3, 5), datetime.date(2005, 7, 11)]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import datetime
import json
from pathlib import Path

import duckdb
import pyarrow.json
import pyarrow.parquet


def store(answers):
    Path("a.jsonl").write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))


def texts(source):
    return ", ".join(text for (text,) in duckdb.sql(f"SELECT answer::VARCHAR FROM {source}").fetchall())


print(f"{'answers':<26}{'DuckDB, JSON lines':<27}pyarrow, JSON lines")
cases = {  # answers -> what DuckDB and pyarrow make of them
    "2-3-5, 5-7-11": ("2002-03-05, 2005-07-11", "2-3-5, 5-7-11"),
    "8-15-17": ("2017-08-15", "8-15-17"),
    "3:4:5, 1:2:3": ("03:04:05, 01:02:03", "3:4:5, 1:2:3"),
    "2-3-5, 4": ("2-3-5, 4", "2-3-5, 4"),
    "007, 1.50": ("007, 1.50", "007, 1.50"),
    "2024-05-01 10:00": ("2024-05-01 10:00", "2024-05-01 10:00:00"),
}
for answers, expected in cases.items():
    store(answers.split(", "))
    found = texts("'a.jsonl'"), ", ".join(map(str, pyarrow.json.read_json("a.jsonl")["answer"].to_pylist()))
    print(f"{answers:<26}{found[0]:<27}{found[1]}")
    assert found == expected

store(["2-3-5", "5-7-11"])
named = texts("read_json('a.jsonl', columns = {answer: 'VARCHAR'})")
print(f"2-3-5, 5-7-11 with the type named: {named}")
assert named == "2-3-5, 5-7-11"
duckdb.sql("COPY (FROM 'a.jsonl') TO 'a.parquet'")
kept = pyarrow.parquet.read_table("a.parquet")["answer"].to_pylist()
print(f"2-3-5, 5-7-11 through a Parquet file: {kept}")
assert kept == [datetime.date(2002, 3, 5), datetime.date(2005, 7, 11)]
PYTHON
