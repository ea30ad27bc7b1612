#!/usr/bin/env bash
# s3fs: `open(path, "xb")` of an object that exists empties it, if nothing is written.
#
# Versions: s3fs 2026.9.0 and fsspec 2026.9.0, moto 5.2.5 as the S3 server. SeaweedFS 4.48 gave the same.
# One would expect: mode "x" creates and never replaces. Where the name is taken it raises FileExistsError, as `open` of
#   Python and fsspec's local files do; most of all for an empty object, as a lock or a "done" mark is one.
# Seen: with a byte or more, s3fs asks the server to refuse (If-None-Match), and FileExistsError comes when the file is
#   closed. With no byte it takes another way, which lacks the condition: no error, and what was there is gone. Two
#   processes that both create the mark both believe that they were first. `pipe_file(path, b"", mode="create")` is
#   refused, as it should be.
# Output:
#   Python, nothing written       FileExistsError  kept b'precious'
#   file://, nothing written      FileExistsError  kept b'precious'
#   s3://, one byte written       FileExistsError  kept b'precious'
#   s3://, nothing written        no error         kept b''
#   s3://, pipe_file of nothing   FileExistsError  kept b'precious'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  s3fs==2026.9.0 fsspec==2026.9.0 'moto[server]==5.2.5'
cd "$folder"
venv/bin/python - <<'PYTHON'
import logging
import os
from pathlib import Path

import fsspec
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ["NO_PROXY"] = os.environ["no_proxy"] = host
s3 = fsspec.filesystem(
    "s3",
    key="testing",
    secret="testing",
    endpoint_url=f"http://{host}:{port}",
    client_kwargs={"region_name": "us-east-1"},
    use_listings_cache=False,
)
s3.call_s3("create_bucket", Bucket="shelf")
local = fsspec.filesystem("file")
path, key = os.path.abspath("mark"), "shelf/mark"


def write(open_it, data):
    with open_it() as file:
        file.write(data)


cases = {
    "Python, nothing written": lambda: write(lambda: open(path, "xb"), b""),
    "file://, nothing written": lambda: write(lambda: local.open(path, "xb"), b""),
    "s3://, one byte written": lambda: write(lambda: s3.open(key, "xb"), b"1"),
    "s3://, nothing written": lambda: write(lambda: s3.open(key, "xb"), b""),
    "s3://, pipe_file of nothing": lambda: s3.pipe_file(key, b"", mode="create"),
}
seen = {}
for name, create in cases.items():
    Path(path).write_bytes(b"precious")
    s3.pipe_file(key, b"precious")
    try:
        create()
        outcome = "no error"
    except FileExistsError:
        outcome = "FileExistsError"
    kept = s3.cat_file(key) if name.startswith("s3") else Path(path).read_bytes()
    print(f"{name:<30}{outcome:<17}kept {kept}")
    seen[name] = (outcome, kept)
server.stop()
assert seen.pop("s3://, nothing written") == ("no error", b"")
assert set(seen.values()) == {("FileExistsError", b"precious")}
PYTHON
