"""The commands of ``rz`` that work on a cluster (also as ``kubectl rz``). ``cli`` adds them to its own.

Only typer and the standard library are imported at the top, as in ``cli``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rz_operator.commands.cluster.access import Target, Work

USER_ERROR, FAILURE, INTERRUPTED = 64, 1, 130

RunFile = Annotated[Path, typer.Argument(help="Run file: one ReasonerZeroRun in YAML.", show_default=False)]
RunName = Annotated[str, typer.Argument(help="Name of the run.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the spec, e.g. algorithm.seed=1."),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; default: the kubeconfig context's.")
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig; default: its current one.")]
Kubeconfig = Annotated[
    Path | None, typer.Option(help="Kubeconfig; default: $KUBECONFIG, the pod's ServiceAccount, or ~/.kube/config.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is done, and show what it waits for.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="With --wait: give up after this many seconds.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands, in the order in which they are listed."""
    app.command()(submit)
    app.command()(logs)
    app.command("suspend", help="Pause a run: its pods are deleted after a checkpoint.")(_sets_suspend(True))
    app.command("resume", help="Let a suspended run go on where it was.")(_sets_suspend(False))
    app.command()(manifests)


@contextmanager
def errors() -> Iterator[None]:
    """Errors as one message: 64 for what the user must change, 1 for what the cluster did not do."""
    from rz_operator.commands.cluster.access import RemoteError
    from rz_operator.errors import UserError

    try:
        yield
    except UserError as error:
        typer.echo(f"rz: {error}", err=True)
        raise typer.Exit(USER_ERROR) from None
    except RemoteError as error:
        typer.echo(f"rz: {error}", err=True)
        raise typer.Exit(FAILURE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def target(namespace: str | None, context: str | None, kubeconfig: Path | None) -> Target:
    from rz_operator.commands.cluster.access import Target

    return Target(namespace, context, str(kubeconfig) if kubeconfig else None)


def submit(
    file: RunFile,
    set_: Set = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and say what would be done; write nothing.")
    ] = False,
) -> None:
    """Create a run on a cluster, or give the one of this name the file's spec."""
    with errors():
        from rz_operator.commands.cluster import access, submit
        from rz_operator.commands.plan_text import objects_of
        from rz_operator.errors import UserError
        from rz_operator.plan import plan
        from rz_operator.run_file import as_local, read_object

        document, accepted = read_object(file, set_ or ())
        plan(as_local(accepted))  # as `rz validate`, in the same words
        paths = submit.check_paths(accepted.spec)
        if paths.problems:
            raise UserError("\n".join([f"{file}: {accepted.metadata.name}:", *paths.problems]))
        body = submit.object_of(document, namespace)
        objects_of(document, "default")
        for warning in paths.warnings:
            typer.echo(f"rz: warning: {warning}", err=True)
        where = target(body["metadata"].get("namespace"), context, kubeconfig)
        for line in access.call(where, lambda api, space: submit.submit(api, space, body, dry_run)):
            typer.echo(line)


def status_of_run(where: Target, name: str, watch: bool) -> None:
    """``rz status NAME``."""
    with errors():
        from rz_operator.commands.cluster import access, status
        from rz_operator.commands.text_table import width_of

        async def look(api: access.ClusterApi, space: str) -> tuple[list[str], bool]:
            return await status.show_run(api, space, name, time.time(), width_of(sys.stdout))

        try:
            _show(where, look, watch)
        except access.NoClusterError as error:
            raise access.NoClusterError(f"found no folder {name} here, and for a run on a cluster: {error}") from None


def status_of_runs(where: Target, all_namespaces: bool, watch: bool) -> None:
    """``rz status -n NAMESPACE`` and ``rz status --all-namespaces``."""
    with errors():
        from rz_operator.commands.cluster import access, status

        async def look(api: access.ClusterApi, space: str) -> tuple[list[str], bool]:
            return await status.show_runs(api, "" if all_namespaces else space, time.time()), False

        _show(where, look, watch)


def _show(where: Target, look: Work[tuple[list[str], bool]], watch: bool) -> None:
    """The lines of ``look``, once; with ``watch`` again and again, until it says that nothing more will come."""
    from rz_operator.commands.cluster import access, status

    if not watch:
        typer.echo("\n".join(access.call(where, look)[0]))
        return
    show = _Screen()

    async def work(api: access.ClusterApi, space: str) -> None:
        await status.watch(lambda: look(api, space), show)

    access.call(where, work)


class _Screen:
    """Shows lines in place on a terminal; else, below each other, where they changed."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._shown: list[str] = []

    def __call__(self, lines: list[str]) -> None:
        if self._terminal:
            print("\033[H\033[2J", end="")  # home, and clear the screen
        elif lines == self._shown:
            return
        self._shown = lines
        typer.echo("\n".join(lines))


def logs(
    name: RunName,
    role: Annotated[str, typer.Option(help="trainer, rollout, reward or ledger.", show_default=False)],
    index: Annotated[int | None, typer.Option(min=0, help="Number of the pod; default: all of the role.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    previous: Annotated[bool, typer.Option("--previous", help="Of the container before the last restart.")] = False,
    tail: Annotated[
        int | None, typer.Option(min=0, help="Last lines only; default: all of one pod, 10 of each of several.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what the pods of a role say, those of the newest incarnation."""
    with errors():
        from rz_operator.commands.cluster import access, logs
        from rz_operator.commands.cluster.view import ROLES
        from rz_operator.errors import UserError

        known = next((each for each in ROLES if each == role), None)
        if known is None:
            raise UserError(f"found --role {role}, one of {', '.join(ROLES)} is required: change it")
        query = logs.Query(known, index, follow, previous, tail)

        async def work(api: access.ClusterApi, space: str) -> None:
            await logs.print_logs(api, space, name, query, typer.echo, lambda line: typer.echo(f"rz: {line}", err=True))

        access.call(target(namespace, context, kubeconfig), work)


def _sets_suspend(suspend: bool) -> Callable[..., None]:
    """The command ``suspend``, or ``resume``: they differ in what they write, and wait for."""

    def command(
        name: RunName,
        wait: Wait = False,
        timeout: Timeout = None,
        namespace: Namespace = None,
        context: Context = None,
        kubeconfig: Kubeconfig = None,
    ) -> None:
        with errors():
            from rz_operator.commands.cluster import access, status

            async def work(api: access.ClusterApi, space: str) -> None:
                typer.echo(await status.set_suspend(api, space, name, suspend))
                if wait:
                    await status.wait_for_suspend(api, space, name, suspend, typer.echo, timeout)

            access.call(target(namespace, context, kubeconfig), work)

    return command


def manifests(
    file: RunFile,
    set_: Set = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace in the objects.")] = "default",
    incarnation: Annotated[int, typer.Option(min=1, max=999_999, help="Of the trainer gang.")] = 1,
) -> None:
    """Print the Kubernetes objects that a run would have, as YAML. No cluster is asked."""
    with errors():
        from rz_operator.commands import plan_text
        from rz_operator.run_file import read_object

        document, _ = read_object(file, set_ or ())
        typer.echo(plan_text.as_yaml(plan_text.objects_of(document, namespace, incarnation)), nl=False)
