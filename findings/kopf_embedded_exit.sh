#!/usr/bin/env bash
# kopf: ten minutes after `kopf.operator(...)` has ended within a process that goes on, that process is killed.
#
# Versions: kopf 1.45.2, Python 3.11.
# One would expect: kopf's page on embedding shows how to run an operator as a coroutine within a larger program; when that
#   coroutine is cancelled, or fails, it is over, and the program may start it again.
# Seen: whenever an operator ends by anything but its stop flag, a timer is left in the event loop, which sends SIGKILL to
#   the thread (the process, that is) after `settings.process.ultimate_exiting_timeout`, 600 seconds if nobody sets it. It
#   is meant for an operator that hangs while it ends, and is not taken back when it has ended. Nothing is logged.
# Mends it: `settings.process.ultimate_exiting_timeout = None`, or an event loop that ends with the operator.
# Output:
#   without a limit: goes on, exit code 0
#   with a limit of 2 s: killed (137)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kopf==1.45.2
cat > "$folder/embed.py" <<'PYTHON'
import asyncio
import logging
import sys

import kopf

logging.disable(logging.CRITICAL)


async def main(limit):
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = limit
    operator = asyncio.create_task(
        kopf.operator(registry=kopf.OperatorRegistry(), settings=settings, standalone=True, namespaces=["team"])
    )
    await asyncio.sleep(0.5)
    operator.cancel()
    await asyncio.wait([operator])
    await asyncio.sleep(4)  # the program goes on


asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else None))
PYTHON
cd "$folder"
code=0
venv/bin/python embed.py || code=$?
[ "$code" = 0 ]
echo "without a limit: goes on, exit code 0"
code=0
venv/bin/python embed.py 2 || code=$?
[ "$code" = 137 ]
echo "with a limit of 2 s: killed (137)"
