#!/usr/bin/env bash
# torch: a TCPStore tells its keys to whoever connects, and listens on every address of the machine.
#
# Versions: torch 2.13.0.
# One would expect: that a PrefixStore with an unguessable prefix keeps strangers from what is below it, and that
#   TCPStore("127.0.0.1", port, is_master=True) listens on 127.0.0.1.
# Seen: any client lists all keys (list_keys) and reads them; the server answers at
#   another address of the machine too. A listening socket of one's own (master_listen_fd) mends the second.
# Output:
#   a stranger sees ['a-prefix-that-nobody-guesses/address'] and reads b'10.0.0.1'
#   127.0.0.2 answers; with a socket of one's own: ConnectionRefusedError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import socket

from torch.distributed import PrefixStore, TCPStore

server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
PrefixStore("a-prefix-that-nobody-guesses", server).set("address", "10.0.0.1")
stranger = TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)
keys = stranger.list_keys()
print("a stranger sees", keys, "and reads", stranger.get(keys[0]))
assert keys == ["a-prefix-that-nobody-guesses/address"]

socket.create_connection(("127.0.0.2", server.port), timeout=10).close()
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
bound = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
try:
    socket.create_connection(("127.0.0.2", port), timeout=10).close()
    refused = "answers too"
except OSError as error:
    refused = type(error).__name__
print("127.0.0.2 answers; with a socket of one's own:", refused)
assert refused == "ConnectionRefusedError"
PYTHON
