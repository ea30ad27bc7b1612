#!/usr/bin/env bash
# s3fs: `cat_file(path, start=n, end=n)` gives the whole object.
#
# Versions: s3fs 2026.9.0 and fsspec 2026.9.0, moto 5.2.5 as the S3 server.
# One would expect: `start` and `end` slice as Python does, so that an empty range has no bytes, as with fsspec's local
#   files and its memory; and that a range behind the end is empty too.
# Seen: the range becomes the header `Range: bytes=2-1`, which to HTTP is no range at all, so that the answer is the whole
#   object. A reader that asks piece by piece gets gigabytes where a piece has no bytes. Behind the end the server says
#   416, which s3fs reports as EINVAL (errno 22). Not asking where nothing is wanted, and taking 416 for the end, mends it.
# Output:
#   1:3     memory:// b'bc'     s3:// b'bc'
#   2:2     memory:// b''       s3:// b'abcd'
#   0:0     memory:// b''       s3:// b'abcd'
#   9:12    memory:// b''       s3:// OSError 22
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
)
s3.call_s3("create_bucket", Bucket="shelf")
memory = fsspec.filesystem("memory")


def read(fs, path, start, end):
    try:
        return str(fs.cat_file(path, start=start, end=end))
    except OSError as error:
        return f"{type(error).__name__} {error.errno}"


seen = {}
for start, end in ((1, 3), (2, 2), (0, 0), (9, 12)):
    s3.pipe_file("shelf/word", b"abcd")
    memory.pipe_file("/word", b"abcd")
    seen[start, end] = read(memory, "/word", start, end), read(s3, "shelf/word", start, end)
    print(f"{start}:{end:<6}memory:// {seen[start, end][0]:<10}s3:// {seen[start, end][1]}")
server.stop()
assert seen[1, 3] == ("b'bc'", "b'bc'")
assert seen[2, 2] == seen[0, 0] == ("b''", "b'abcd'")
assert seen[9, 12] == ("b''", "OSError 22")
PYTHON
