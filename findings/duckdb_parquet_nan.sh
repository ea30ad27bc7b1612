#!/usr/bin/env bash
# DuckDB does not find a NaN in a Parquet file of pyarrow's.
#
# Versions: pyarrow 26.0.1, duckdb 2.0.1.
# One would expect: a query gives the same rows whether the same values lie in a DuckDB table or in a Parquet file.
#   To DuckDB a NaN is equal to itself and greater than every other number, so `loss > 10` and `isnan(loss)` find it.
# Seen: pyarrow leaves NaN out of the smallest and the greatest value that it stores for a column, as Parquet's
#   specification asks of writers. DuckDB trusts the two also in search of NaN: `isnan(loss)` and `loss > 10` find
#   nothing, and where all other values are one number, `loss = 1` finds the NaN too. `max(loss)` is nan for the table
#   and 1.5 for the file. No error, no warning. A Parquet file that DuckDB wrote from the same values answers as the
#   table does, and DuckDB 1.3.0 found the NaN in both. pyarrow loses one as well: a filter with `!=` finds it in memory
#   and not in the file.
# Output:
#   losses 0.5 nan 1.5; stored: smallest 0.5, greatest 1.5
#   isnan(loss)     table [2]     DuckDB's file [2]     pyarrow's file []
#   loss > 10       table [2]     DuckDB's file [2]     pyarrow's file []
#   loss = 'nan'    table [2]     DuckDB's file [2]     pyarrow's file []
#   max(loss)       table nan     DuckDB's file nan     pyarrow's file 1.5
#   losses 1.0 nan 1.0
#   loss = 1        table [1, 3]  DuckDB's file [1, 3]  pyarrow's file [1, 2, 3]
#   loss != 1       table [2]     DuckDB's file [2]     pyarrow's file []
#   loss != 1       pyarrow, in memory [2]    pyarrow, its file []
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 duckdb==2.0.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import math

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def store(losses):
    """The same rows three times: a DuckDB table, a file that DuckDB wrote, one that pyarrow wrote."""
    rows = pa.table({"step": pa.array([1, 2, 3], pa.int32()), "loss": pa.array(losses, pa.float64())})
    pq.write_table(rows, "pyarrow.parquet")
    duckdb.sql("CREATE OR REPLACE TABLE losses AS FROM rows")
    duckdb.sql("COPY losses TO 'duckdb.parquet'")
    return rows


def steps(where):
    places = ("losses", "'duckdb.parquet'", "'pyarrow.parquet'")
    found = [
        [step for (step,) in duckdb.sql(f"SELECT step FROM {place} WHERE {where} ORDER BY step").fetchall()]
        for place in places
    ]
    print("{:<16}table {!s:<8}DuckDB's file {!s:<8}pyarrow's file {}".format(where, *found))
    return found


nan = math.nan
rows = store([0.5, nan, 1.5])
stored = pq.read_metadata("pyarrow.parquet").row_group(0).column(1).statistics
print(f"losses 0.5 nan 1.5; stored: smallest {stored.min}, greatest {stored.max}")
assert (stored.min, stored.max) == (0.5, 1.5)
for where in ("isnan(loss)", "loss > 10", "loss = 'nan'"):
    assert steps(where) == [[2], [2], []]
greatest = [
    duckdb.sql(f"SELECT max(loss) FROM {place}").fetchall()[0][0]
    for place in ("losses", "'duckdb.parquet'", "'pyarrow.parquet'")
]
print("{:<16}table {!s:<8}DuckDB's file {!s:<8}pyarrow's file {}".format("max(loss)", *greatest))
assert math.isnan(greatest[0]) and math.isnan(greatest[1]) and greatest[2] == 1.5

print("losses 1.0 nan 1.0")
rows = store([1.0, nan, 1.0])
assert steps("loss = 1") == [[1, 3], [1, 3], [1, 2, 3]]
assert steps("loss != 1") == [[2], [2], []]
other = pc.field("loss") != 1.0
in_memory = rows.filter(other)["step"].to_pylist()
from_file = ds.dataset("pyarrow.parquet").to_table(filter=other)["step"].to_pylist()
print(f"loss != 1       pyarrow, in memory {in_memory}    pyarrow, its file {from_file}")
assert (in_memory, from_file) == ([2], [])
PYTHON
