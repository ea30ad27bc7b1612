"""Every figure that is shown is the ledger's own; one that is not there yet is left out, or a dash.

What a person sees of ``rz run``: a live table on a terminal, else a line per completed step. For ``local.runner``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rz_api import learning
from rz_api.status import RunStatus
from rz_operator.decisions.members import Event, Observation, Observed
from rz_operator.decisions.reached import LedgerStatus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PHASES = ("wait", "values", "policy_update", "publish", "measure", "critic_update", "checkpoint")
"""Phases of a trainer step in the order in which they happen; the metric is ``seconds_<phase>``."""


# -------------------------------------------------------------------------------------------------------- text


def duration(seconds: float | None) -> str:
    """``75`` is ``1:15``, ``3700`` is ``1:01:40``; a dash for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures(ledger: LedgerStatus) -> list[tuple[str, str]]:
    """(name, value) of what is known about the newest committed step, in the order in which it is shown."""
    metrics: Mapping[str, float] = ledger.get("metrics") or {}
    rows: list[tuple[str, str]] = []

    def add(name: str, value: float | None, text: str) -> None:
        if value is not None:
            rows.append((name, text.format(value)))

    add("reward", metrics.get("reward_mean"), "{:.3f}")
    add("length", metrics.get("response_length_mean"), "{:.1f}")
    for name, accuracy in sorted((ledger.get("evaluation") or {}).items()):
        add(name, accuracy, "{:.1%}")
    add("truncated", metrics.get("truncated_fraction"), "{:.1%}")
    add("masked", metrics.get("reward_status_crashed_fraction") or None, "{:.1%}")
    add("tok/s", metrics.get("tokens_per_second_generated"), "{:,.0f}")
    add("MFU", metrics.get("mfu"), "{:.1%}")
    add("s/step", ledger.get("seconds_per_step") or metrics.get("seconds_step"), "{:.2f}")
    rows.append(("ETA", duration(ledger.get("eta_seconds"))))
    return rows


def step_line(ledger: LedgerStatus) -> str:
    """``step 12/60  reward 0.412  length 24.1  heldout 54.0%  truncated 1.0%  tok/s 9,800  s/step 1.20  ETA 0:58``"""
    return "  ".join([f"step {_steps(ledger)}", *(f"{name} {value}" for name, value in figures(ledger))])


def _steps(ledger: LedgerStatus) -> str:
    total = ledger.get("total_steps")
    return f"{ledger.get('step', 0)}/{total if total is not None else '?'}"


def member_text(member: Observed) -> str:
    """``trainer-0 (i3) running``"""
    incarnation = f" (i{member.incarnation})" if member.role == "trainer" or member.incarnation > 1 else ""
    return f"{member.key}{incarnation} {'stopping' if member.deleting else member.phase}"


# ------------------------------------------------------------------------------------------------------- views


class PlainView:
    """Lines on a stream: events, and every completed step once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step = 0
        self._said = dict.fromkeys(AGAIN, "")

    def show(self, status: RunStatus, seen: Observation, ledger: LedgerStatus | None) -> None:
        if ledger is not None:
            for name, trouble in troubles(ledger).items():
                if trouble != self._said[name]:
                    self._print(f"warning: {trouble}" if trouble else AGAIN[name])
                    self._said[name] = trouble
        if ledger is not None and ledger.get("step", 0) > self._step:
            self._step = ledger["step"]
            self._print(step_line(ledger))

    def tell(self, event: Event) -> None:
        self._print(("warning: " if event.kind == "Warning" else "") + event.message)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to put back."""


class LiveView:
    """A table that is redrawn in place; events scroll above it."""

    def __init__(self, console: Console, name: str) -> None:
        from rich.live import Live

        self._name = name
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, status: RunStatus, seen: Observation, ledger: LedgerStatus | None) -> None:
        members = [member_text(member) for member in seen.members]
        self._live.update(render(self._name, status, members, ledger), refresh=True)

    def tell(self, event: Event) -> None:
        from rich.text import Text

        self._live.console.print(Text(event.message, style="yellow" if event.kind == "Warning" else "cyan"))

    def close(self) -> None:
        """Leave the last table on the screen and the terminal as it was."""
        self._live.stop()


def render(name: str, status: RunStatus, members: Sequence[str], ledger: LedgerStatus | None) -> RenderableType:
    """The whole picture: phase and step, figures, seconds per phase, members."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    if ledger is not None:
        grid.add_row("step", f"{_steps(ledger)}   {progress_text(ledger)}")
        grid.add_row("", "  ".join(f"{key} [green]{value}[/]" for key, value in figures(ledger)))
    if ledger is not None:
        for kind, trouble in troubles(ledger).items():
            if trouble:
                # As text: what a storage says may have brackets in it, which are markup.
                grid.add_row(kind, Text(trouble, style="bold red"))
        phases = phase_seconds(ledger)
        if phases:
            grid.add_row("seconds", "  ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases))
    restarts = "  ".join(f"{role} {count}" for role, count in sorted(status.restarts.items()))
    if restarts:
        grid.add_row("failures", restarts)
    grid.add_row("members", "  ".join(members) or "none")
    return Panel(grid, title=f"{name}: {status.phase}", title_align="left", expand=True)


def progress_text(ledger: LedgerStatus) -> str:
    """How far the step under way is, and whom it waits for: ``units 12/32 (4 leased), waits for rollout``."""
    text = (
        f"units {ledger.get('units_done', 0)}/{ledger.get('units_total', 0)} ({ledger.get('units_leased', 0)} leased)"
    )
    if ledger.get("eval_units_total"):
        text += f", evaluation {ledger.get('eval_units_done', 0)}/{ledger['eval_units_total']}"
    if ledger.get("blocking_role") not in (None, "none"):
        text += f", waits for {ledger['blocking_role']}"
    phase = ledger.get("phase")
    return text if phase in (None, "running") else f"{phase}, {text}"


AGAIN = {
    "storage": "the storage does what it should again",
    "reward": "verdicts come again",
    "learning": "there is something to learn again",
}
"""Kind of trouble -> what is said when it is over."""


def troubles(ledger: LedgerStatus) -> dict[str, str]:
    """Kind -> what the ledger says is wrong; empty where nothing is, or it is no text."""
    found = {kind: ledger.get(f"{kind}_trouble") for kind in ("storage", "reward")}
    said = {kind: text if isinstance(text, str) else "" for kind, text in found.items()}
    return said | {"learning": learning.finding(ledger).message}


def phase_seconds(ledger: LedgerStatus) -> list[tuple[str, Any]]:
    metrics = ledger.get("metrics") or {}
    return [(phase, metrics[f"seconds_{phase}"]) for phase in PHASES if f"seconds_{phase}" in metrics]
