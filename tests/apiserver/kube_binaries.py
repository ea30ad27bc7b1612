"""Finds the servers that these tests run, and builds them once where they are not at hand. No root is needed.

Called by ``conftest.py``, by ``tests/cluster`` and, as ``python tests/apiserver/kube_binaries.py [--crd] [--node]``,
before the tests by whoever wants to see the minutes that the first build takes.

1. ``KUBEBUILDER_ASSETS``: a folder with ``etcd`` and ``kube-apiserver`` (envtest's convention).
2. The user's cache, below ``reasonerzero/kubernetes``.
3. Debian: a package root of our own gets the source of Kubernetes 1.20.2, Go and etcd; only kube-apiserver is built,
   with ``--node`` what a node runs in the same build, which shares nearly all of its packages.

The CRD server, the newest that Debian has (a CEL-aware one; nothing but custom resources), is built in the same way.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

KUBERNETES = "1.20.2"
STABLE, UNSTABLE = "bookworm", "sid"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ETCD, API_SERVER, CRD_SERVER = "etcd", "kube-apiserver", "kube-crd-server"
NODE_BINARIES = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
"""What a whole cluster needs beside the control plane (``tests/cluster``)."""
CONTROL_PLANE_BINARIES = (ETCD, API_SERVER)
CLUSTER_BINARIES = (*CONTROL_PLANE_BINARIES, *NODE_BINARIES)
GO_BUILD = ("go", "build", "-gcflags=all=-dwarf=false", "-ldflags", "-s -w", "-tags", "providerless,dockerless")
"""Nobody debugs these, no cloud's own volumes and load balancers are tested, and pods run in containerd; the compiler's
garbage collection is put off (``_go``)."""
COMING = "RZ_APISERVER_IS_COMING"
"""Set by ``make test``, which builds the control plane beside the tests: those that need it are not waited for."""
ADVICE = (
    "set KUBEBUILDER_ASSETS to a folder with etcd and kube-apiserver (setup-envtest makes one), "
    "or run on Debian, where they are built once from Debian's packages"
)


class BinariesMissingError(Exception):
    """No server can be had here; the text is one sentence for the person who runs the tests."""


def control_plane_binaries() -> Path:
    """Folder with ``etcd`` and ``kube-apiserver``; builds them if they are nowhere. Raises BinariesMissingError."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        missing = [name for name in (ETCD, API_SERVER) if not os.access(Path(given, name), os.X_OK)]
        if missing:
            raise BinariesMissingError(
                f"KUBEBUILDER_ASSETS is {given}, which has no {' and no '.join(missing)}: {ADVICE}"
            )
        return Path(given)
    if _complete(_node_folder(), CLUSTER_BINARIES):
        return _node_folder()
    return _cached(_control_plane_folder(), CONTROL_PLANE_BINARIES, _build_control_plane)


def crd_server_binary(*, build: bool = True) -> Path:
    """The API server of custom resources alone, of a Kubernetes that evaluates CEL. Raises BinariesMissingError,
    without ``build`` also where it was not built before."""
    folder = cache_folder() / "crd-server"
    if not build and not _complete(folder, (CRD_SERVER,)):
        raise BinariesMissingError(
            "the CRD server was not built on this machine: `make test-thorough` does (minutes, once), or "
            "`python tests/apiserver/kube_binaries.py --crd`"
        )
    return _cached(folder, (CRD_SERVER,), _build_crd_server) / CRD_SERVER


def node_binaries() -> Path:
    """Folder with ``CLUSTER_BINARIES``, all of one release. Raises BinariesMissingError."""
    return _cached(_node_folder(), CLUSTER_BINARIES, _build_cluster)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "reasonerzero", "kubernetes")


def _control_plane_folder() -> Path:
    return cache_folder() / KUBERNETES


def _node_folder() -> Path:
    return cache_folder() / f"{KUBERNETES}-node"


def _complete(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name).exists() for name in names)


def _cached(folder: Path, names: Sequence[str], build: Callable[[Path, Path], None]) -> Path:
    """``folder`` once it holds ``names``; ``build(work, made)`` makes them, in one process at a time."""
    if _complete(folder, names):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BinariesMissingError(f"the cache folder {folder.parent} can't be made ({error}): {ADVICE}") from error
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if _complete(folder, names):
            return folder
        _require_debian()
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = Path(temporary, "made")
            made.mkdir()
            build(Path(temporary), made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that builds ({path})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_debian() -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb", "tar") if shutil.which(tool) is None]
    if missing:
        raise BinariesMissingError(f"etcd and kube-apiserver are not here, nor is {missing[0]} to get them: {ADVICE}")
    if not KEYRING.exists():
        raise BinariesMissingError(f"etcd and kube-apiserver are not here, nor is Debian's keyring {KEYRING}: {ADVICE}")


# ------------------------------------------------------------------------------------------------------- building


def _build_control_plane(work: Path, made: Path) -> None:
    _say(f"building kube-apiserver {KUBERNETES} from Debian's source, once (about 4 minutes on 2 cores, 3 GB of disk)")
    _build(work, made, (API_SERVER,))


def _build_cluster(work: Path, made: Path) -> None:
    _say(f"building a whole Kubernetes {KUBERNETES} from Debian's source, once (about 6 minutes on 2 cores, 5 GB)")
    _build(work, made, (API_SERVER, *NODE_BINARIES))


def _build(work: Path, made: Path, programs: Sequence[str]) -> None:
    root, source, env = _source(work)
    _generate_openapi(source, work, env)
    _say(f"compiling {', '.join(programs)}")
    commands = [f"./cmd/{name}" for name in programs]
    _run([*GO_BUILD, "-o", f"{made}/", *commands], cwd=source, env=env)
    shutil.copy2(root / "usr/bin/etcd", made / ETCD)


def _source(work: Path) -> tuple[Path, Path, dict[str, str]]:
    """Unpacked Debian packages (Go and etcd), the source of Kubernetes ready to compile, Go's environment."""
    apt = _Apt(work / "apt", STABLE)
    root = apt.unpack(("golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev", "etcd-server"))
    apt.run("source", "--download-only", "kubernetes", cwd=apt.folder)
    (archive,) = apt.folder.glob("kubernetes_*.orig.tar.gz")

    path = work / "go"
    source = path / "src/k8s.io/kubernetes"
    source.mkdir(parents=True)
    _run(["tar", "--extract", "--gzip", "--file", str(archive), "--directory", str(source), "--strip-components=1"])
    _replace_reflect2(source / "vendor/github.com/modern-go/reflect2", root)
    for package in ("component-base/version", "client-go/pkg/version"):
        _set_version(source / "staging/src/k8s.io" / package / "base.go")
    return root, source, _go(root, path, work)


def _replace_reflect2(vendored: Path, root: Path) -> None:
    """The vendored 1.0.1 corrupts memory under Go 1.18 and later: the server dies at the first custom resource."""
    for file in (*vendored.glob("*.go"), *vendored.glob("*.s")):
        file.unlink()
    packaged = root / "usr/share/gocode/src/github.com/modern-go/reflect2"
    for file in (*packaged.glob("*.go"), *packaged.glob("*.s")):
        if not file.name.endswith("_test.go"):
            shutil.copy(file, vendored)


def _set_version(file: Path) -> None:
    """Upstream's build sets these when it links; the archive's own values are no version that a client could read."""
    major, minor, _ = KUBERNETES.split(".")
    text = file.read_text()
    for name, value in {"gitMajor": major, "gitMinor": minor, "gitVersion": f"v{KUBERNETES}"}.items():
        text, count = re.subn(rf"(?m)^\t{name}\b.*$", f'\t{name} = "{value}"', text)
        assert count == 1, f"{file.name} sets {name} {count} times"
    file.write_text(text)


def _generate_openapi(source: Path, work: Path, env: dict[str, str]) -> None:
    """The one generated package that the source archive lacks."""
    _say("generating the server's OpenAPI package")
    tool = work / "openapi-gen"
    _run([*GO_BUILD, "-o", str(tool), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"], cwd=source, env=env)
    modules = ("api", "apimachinery", "apiextensions-apiserver", "kube-aggregator", "apiserver", "client-go")
    folders = set()
    for module in modules:
        for file in (source / "staging/src/k8s.io" / module).rglob("*.go"):
            marked = any(line.startswith("// +k8s:openapi-gen=") for line in file.read_text().splitlines())
            if marked and not {"testapigroup", "example", "example2"} & set(file.parts):
                folders.add(file.parent.relative_to(source / "staging/src"))
    inputs = ",".join(f"k8s.io/kubernetes/vendor/{folder}" for folder in sorted(folders))
    header = "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"
    options = ["-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi", "-h", header]
    _run([str(tool), "--logtostderr", "-i", inputs, *options, "-r", str(work / "report")], cwd=source, env=env)


def _build_crd_server(work: Path, made: Path) -> None:
    _say("building the CRD server from Debian's newest Go packages, once (about 6 minutes on 2 cores, 4 GB of disk)")
    apt = _Apt(work / "apt", UNSTABLE)
    listed = apt.run("install", "--simulate", "--no-install-recommends", "golang-k8s-apiextensions-apiserver-dev")
    packages = [line.split()[1] for line in listed.splitlines() if line.startswith("Inst golang-")]
    root = apt.unpack(packages)
    path = root / "usr/share/gocode"
    source = path / "src/k8s.io/apiextensions-apiserver"
    _say("compiling the CRD server")
    _run([*GO_BUILD, "-o", str(made / CRD_SERVER), "."], cwd=source, env=_go(root, path, work))


def _go(root: Path, path: Path, work: Path) -> dict[str, str]:
    """Environment of the unpacked Go, in GOPATH mode and without a network. Its links to /usr/share become folders."""
    (home,) = (folder for folder in (root / "usr/lib").glob("go-*") if not folder.is_symlink())
    for link in [entry for entry in home.iterdir() if entry.is_symlink()]:
        target = root / "usr/share" / home.name / link.name
        link.unlink()
        if target.exists():
            target.rename(link)
    off = {"GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOPROXY": "off", "CGO_ENABLED": "0"}
    memory = {"GOGC": "off", "GOMEMLIMIT": "2GiB"}
    folders = {"GOROOT": home, "GOPATH": path, "GOCACHE": work / "go-cache", "GOTMPDIR": work, "HOME": work}
    return (
        dict(os.environ)
        | off
        | memory
        | {name: str(folder) for name, folder in folders.items()}
        | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    )


class _Apt:
    """apt-get with lists, caches and package state of its own; the machine's are neither read nor changed."""

    def __init__(self, folder: Path, suite: str) -> None:
        self.folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        source = f"[signed-by={KEYRING}] {_mirror()} {suite} main"
        (folder / "sources.list").write_text(f"deb {source}\ndeb-src {source}\n")
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "true",
            "APT::Sandbox::User": "",
        }
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        _say(f"reading the package lists of Debian {suite}")
        self.run("update", "--error-on=any")

    def run(self, *words: str, cwd: Path | None = None) -> str:
        return _run(["apt-get", *self._options, *words], cwd=cwd)

    def unpack(self, packages: Sequence[str]) -> Path:
        """Folder with the files of ``packages``; nothing is installed, no script of theirs runs."""
        _say(f"fetching and unpacking {len(packages)} packages")
        downloads, root = self.folder / "debs", self.folder / "root"
        downloads.mkdir()
        self.run("download", *packages, cwd=downloads)
        for file in sorted(downloads.glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(file), str(root)])
        shutil.rmtree(downloads)
        return root


def _mirror() -> str:
    """Debian's archive as this machine's own package sources name it."""
    text = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    for uri in text.split():
        if uri.rstrip("/").endswith("/debian"):
            return uri
    raise BinariesMissingError(
        f"etcd and kube-apiserver are not here, and no package source here is Debian's: {ADVICE}"
    )


def _run(command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message")[-800:]
        raise BinariesMissingError(
            f"etcd and kube-apiserver are not here and `{Path(command[0]).name}` failed to make them ({last}): {ADVICE}"
        )
    return done.stdout


_STARTED = time.monotonic()


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the servers of tests/apiserver once; print where they are.")
    parser.add_argument("--crd", action="store_true", help="the CRD server too, which evaluates CEL")
    parser.add_argument("--node", action="store_true", help="what a whole cluster needs, too")
    options = parser.parse_args()
    try:
        print(node_binaries() if options.node else control_plane_binaries())
        if options.crd:
            print(crd_server_binary().parent)
    except BinariesMissingError as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
