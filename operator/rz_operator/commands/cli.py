"""Every command ends with 0, with 64 and one clear message for what the user must change, or with another code for a
failure (``rz run``: 1 failed, 130 interrupted and resumable).

The ``rz`` command. Only typer and the standard library are imported at the top: ``rz --help`` is instant. What works on
a cluster is in ``commands.cluster.cli``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rz_operator.commands.cluster import cli as cluster_cli

USER_ERROR = cluster_cli.USER_ERROR
DEFAULT_WIDTH = 80
"""Columns of a plan where the output is no terminal."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a reasoning model from a base model, on this machine or on Kubernetes.",
)


@app.command()
def run(
    file: cluster_cli.RunFile,
    workdir: Annotated[Path | None, typer.Option(help="Folder for logs and status; default runs/<name>.")] = None,
    set_: cluster_cli.Set = None,
    plain: Annotated[bool, typer.Option("--plain", help="One line per step instead of the live table.")] = False,
    ledger_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the ledger on 127.0.0.1; default: a free one.")
    ] = None,
) -> None:
    """Run it here, with processes in place of pods. Ctrl-C checkpoints and stops; the same command resumes."""
    with _user_errors():
        from rz_operator.local.start import run_locally

        raise typer.Exit(run_locally(file, workdir, set_ or (), plain, ledger_port))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Run files.", show_default=False)],
    set_: cluster_cli.Set = None,
    model: Annotated[
        Path | None,
        typer.Option(help="config.json of their model, or its folder: whether it can be trained.", show_default=False),
    ] = None,
) -> None:
    """Check run files: fields, types and rules. Nothing is started or read but the files."""
    from rz_operator.commands import model_config
    from rz_operator.errors import UserError
    from rz_operator.plan import plan as make_plan
    from rz_operator.run_file import read_run

    bad = 0
    for file in files:
        try:
            resolved = make_plan(read_run(file, set_ or ())).run
            if model is not None:
                found, longest = (
                    model_config.read_config(resolved.spec.model, model),
                    resolved.spec.rollout.max_model_length,
                )
                model_config.check(found, str(model), longest)
        except UserError as error:
            bad += 1
            typer.echo(f"rz: {error}", err=True)
        else:
            typer.echo(f"{file}: valid (run {resolved.name})")
    if bad:
        raise typer.Exit(USER_ERROR)


@app.command()
def plan(
    file: cluster_cli.RunFile,
    set_: cluster_cli.Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    gpu: Annotated[
        str,
        typer.Option(
            help="GPU to estimate for, e.g. H100, A100-80GB, L40S; or its name as nvidia-smi prints it, or as the node "
            "label nvidia.com/gpu.product has it."
        ),
    ] = "H100",
    model_config: Annotated[
        Path | None, typer.Option(help="config.json of the model; default: from model.name.", show_default=False)
    ] = None,
    mean_response: Annotated[
        int | None,
        typer.Option(min=1, help="Mean response to estimate for, tokens; default: 2000.", show_default=False),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the environment of each role's first process, too.")
    ] = False,
) -> None:
    """Say whether a run fits and how long a step takes; what it consists of, and what each GPU and host will hold."""
    with _user_errors():
        from rz_operator.commands import estimate_text, plan_text
        from rz_operator.commands.text_table import width_of
        from rz_operator.plan import plan as make_plan
        from rz_operator.run_file import read_run

        planned = make_plan(read_run(file, set_ or ()))
        estimated = estimate_text.of(planned.run.spec, gpu, model_config, mean_response)
        if as_json:
            typer.echo(plan_text.as_json(planned, estimated.document))
        else:
            width = width_of(sys.stdout) or DEFAULT_WIDTH
            typer.echo("\n".join(plan_text.as_text(planned, estimated, width, verbose)))


@app.command()
def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="DIR|NAME",
            help="Workdir of a run on this machine (default: the newest in runs/), or name of one on a cluster.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="On a cluster: show it until it has finished.")] = False,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Runs of the whole cluster.")] = False,
    namespace: cluster_cli.Namespace = None,
    context: cluster_cli.Context = None,
    kubeconfig: cluster_cli.Kubeconfig = None,
) -> None:
    """Show how a run is doing, here or on a cluster; with -n or -A and no name, all runs there."""
    on_cluster = all_namespaces or any(each is not None for each in (namespace, context, kubeconfig))
    where = cluster_cli.target(namespace, context, kubeconfig)
    if run is None and on_cluster:
        cluster_cli.status_of_runs(where, all_namespaces, watch)
    elif run is not None and (on_cluster or not _is_path(run)):
        cluster_cli.status_of_run(where, run, watch)
    else:
        with _user_errors():
            from rz_operator.commands.local_status import print_status

            print_status(None if run is None else Path(run))


def _is_path(run: str) -> bool:
    """Whether a workdir is meant: there is such a folder, or no run can have that name."""
    return Path(run).is_dir() or "/" in run or run.startswith(".")


@app.command()
def report(
    run_folder: Annotated[
        str, typer.Argument(metavar="DIR|URI", help="Workdir or storage of a run.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for report.html and the PNGs; default: the workdir.")] = None,
) -> None:
    """Draw the curves of a run and write report.html, summary.json and trace.json."""
    with _user_errors():
        from rz_operator.commands.local_status import storage_of

        uri, default_out = storage_of(run_folder)
        _worker_tool("rz_workers.report", uri, "--out", str(out or default_out))


@app.command()
def export(
    run_folder: Annotated[
        str, typer.Argument(metavar="DIR|URI", help="Workdir or storage of a run.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder that step-…/policy and critic are written to.", show_default=False)],
    step: Annotated[int | None, typer.Option(help="Completed policy updates; default: the newest checkpoint.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Execute code that the run's model came with.")
    ] = False,
) -> None:
    """Write a checkpoint in Hugging Face format."""
    with _user_errors():
        from rz_operator.commands.local_status import storage_of

        uri, _ = storage_of(run_folder)
        chosen = () if step is None else ("--step", str(step))
        if trust_remote_code:
            chosen = (*chosen, "--trust-remote-code")
        _worker_tool("rz_workers.trainer.durable.export", uri, *chosen, "--out", str(out))


verifier_app = typer.Typer(no_args_is_help=True, help="Try what grades answers.")
app.add_typer(verifier_app, name="verifier")


@verifier_app.command("test")
def try_verifier(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON lines: reference, with answer or response; question, fields; reward and status as expected.",
            show_default=False,
        ),
    ],
    verifier: Annotated[
        str | None, typer.Option(help="In the words of reward.verifier; default: that of the run file.")
    ] = None,
    run_file: Annotated[
        Path | None, typer.Option(help="Run whose verifier and limits these are.", show_default=False)
    ] = None,
) -> None:
    """Run a verifier on examples, in the processes and under the limits of a run; exit with 1 where one disappoints."""
    with _user_errors():
        from rz_operator.errors import UserError
        from rz_operator.run_file import read_run

        reward = None if run_file is None else read_run(run_file, ()).spec.reward
        if verifier is None and reward is None:
            raise UserError("found neither --verifier nor --run-file: name what is to be tried")
        limits = (
            ()
            if reward is None
            else (f"--cpu-seconds={reward.timeout_seconds}", f"--memory-mib={reward.memory_limit_mib}")
        )
        named = verifier or (reward.verifier if reward is not None else "")
        _worker_tool("rz_workers.reward.try_out", str(file), f"--verifier={named}", *limits)


@app.command(context_settings={"ignore_unknown_options": True})
def grade(
    answer: Annotated[
        str | None, typer.Argument(help="What would stand in the box, e.g. '\\frac{1}{2}'.", show_default=False)
    ] = None,
    reference: Annotated[str | None, typer.Argument(help="The reference answer.", show_default=False)] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help='File of pairs, {"answer": ..., "reference": ...} a line.', show_default=False),
    ] = None,
    verifier: Annotated[
        str, typer.Option(help="As reward.verifier: math-verify, robust, legacy, choice, exact, numeric, or your own.")
    ] = "math-verify",
    cpu_seconds: Annotated[float, typer.Option(min=0.01, help="As reward.timeoutSeconds.")] = 10.0,
    memory_mib: Annotated[int, typer.Option(min=64, help="As reward.memoryLimitMib.")] = 1024,
) -> None:
    """Grade an answer as a run would: 0 where it has the whole reward, else 1. With --pairs JSON lines, and 0."""
    limits = ("--cpu-seconds", str(cpu_seconds), "--memory-mib", str(memory_mib))
    file = () if pairs is None else ("--pairs", str(pairs))
    # `-5` is an answer.
    texts = ("--", *(text for text in (answer, reference) if text is not None))
    _worker_tool("rz_workers.reward.grade", "--verifier", verifier, *limits, *file, *texts)


cluster_cli.add_to(app)


def _worker_tool(module: str, *arguments: str) -> NoReturn:
    """Run a worker's command line: this package never imports the workers."""
    import subprocess

    raise typer.Exit(subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Print what the user must change, without a traceback, and end with 64."""
    from rz_operator.errors import UserError

    try:
        yield
    except UserError as error:
        typer.echo(f"rz: {error}", err=True)
        raise typer.Exit(USER_ERROR) from None


def main() -> None:
    """Entry point of ``rz``. A command line that does not parse is a user error like any other."""
    try:
        app()
    except SystemExit as end:
        # 2 is click's code for a command line that does not parse.
        raise SystemExit(USER_ERROR if end.code == 2 else end.code) from None
