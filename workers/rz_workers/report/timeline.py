"""The phase timeline: who worked when in three steps, and where every step's seconds went. Drawn by ``charts``.

The upper panels show a first, a middle and a last step: a row for each phase, solid bars for the step itself, faint
ones for its neighbours, so that the critic's update of step v is seen to run behind the generation of step v+1.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rz_workers.report.record import RunRecord
from rz_workers.report.series import chosen_steps, critic_hidden_fraction, phase_seconds, step_window
from rz_workers.report.style import Theme, direct_labels, new_figure, title, version_axis
from rz_workers.storage.records import Phase

ROLLOUT_PHASES = ("generate", "evaluate")
TRAINER_PHASES = ("wait", "values", "policy_update", "publish", "measure", "critic_update", "checkpoint")
"""In the order of a step; a phase with another name gets a row below these."""


def draw(record: RunRecord, theme: Theme) -> Figure:
    """The whole chart; the record must hold at least one timed phase."""
    timed = record.phases()
    rows = [name for name in (*ROLLOUT_PHASES, *TRAINER_PHASES) if any(phase.name == name for _, phase in timed)]
    rows += sorted({phase.name for _, phase in timed} - set(rows))
    steps = chosen_steps(sorted({step for step, phase in timed if phase.name != "evaluate"}))
    colours = {name: _colour(name, theme) for name in rows}

    row_height = 0.9 + 0.23 * len(rows)
    figure = new_figure(width=9.6, height=row_height * len(steps) + 4.2)
    grid = figure.add_gridspec(len(steps) + 1, 1, height_ratios=[row_height] * len(steps) + [4.0])
    for place, step in enumerate(steps):
        axes = figure.add_subplot(grid[place])
        _step_panel(axes, timed, step, rows, colours, theme)
        if place == 0:
            title(axes, "One step, phase by phase", _overlap_note(record), theme)
    axes.set_xlabel("seconds since the step's first lease")
    _seconds_panel(figure.add_subplot(grid[len(steps)]), record, timed, colours, theme)
    return figure


def _overlap_note(record: RunRecord) -> str:
    share = critic_hidden_fraction(record.commits)
    hidden = "" if share is None else f" · {share:.0%} of the critic's time was behind generation"
    return f"solid: the step · faint: the steps before and after it{hidden}"


def _step_panel(
    axes: Axes, timed: list[tuple[int, Phase]], step: int, rows: list[str], colours: dict[str, str], theme: Theme
) -> None:
    """One step's bars, a row for each phase, seconds from the step's first phase."""
    window = step_window(timed, step)
    if window is None:
        return
    start, end = window
    width = max(end - start, 1e-3)
    left, right = start - 0.04 * width, end + 0.1 * width
    for of_step, phase in timed:
        begin, finish = max(phase.started, left), min(phase.started + phase.seconds, right)
        if finish <= begin:
            continue
        own, row = of_step == step, rows.index(phase.name)
        axes.barh(
            row, finish - begin, left=begin - start, height=0.66, color=colours[phase.name], alpha=1.0 if own else 0.25
        )
        if own and phase.seconds >= 0.01 * width:
            axes.annotate(
                seconds_text(phase.seconds),
                (finish - start, row),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=theme.ink,
                annotation_clip=True,
            )
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    for label, name in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(colours[name])
    # matplotlib counts upwards; reversed, the first phase is on top.
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left - start, right - start)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.annotate(
        f"step {step}", (1, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", ha="right", va="bottom",
        fontsize=10, fontweight="bold", color=theme.ink,
    )  # fmt: skip


def _seconds_panel(
    axes: Axes, record: RunRecord, timed: list[tuple[int, Phase]], colours: dict[str, str], theme: Theme
) -> None:
    """The trainer's seconds of every step, stacked, and the rollouts' generation as a line over them."""
    steps = [commit.step for commit in record.commits]
    floor = [0.0] * len(steps)
    ends = []
    for name in colours:
        if name in ROLLOUT_PHASES:
            continue
        seconds = phase_seconds(timed, name)
        values = [seconds.get(step, 0.0) for step in steps]
        axes.bar(steps, values, bottom=floor, width=0.86, color=colours[name])
        if values[-1] > 0:
            ends.append((floor[-1] + values[-1] / 2, name.replace("_", " "), colours[name]))
        floor = [below + value for below, value in zip(floor, values, strict=True)]
    generation = phase_seconds(timed, "generate")
    if generation:
        axes.plot(list(generation), list(generation.values()), color=colours["generate"], linewidth=1.8)
        ends.append((list(generation.values())[-1], "generate", colours["generate"]))
    title(
        axes, "Seconds of every step", "bars: the trainer's phases, stacked · line: generation by the rollouts", theme
    )
    axes.set_ylabel("seconds")
    version_axis(axes, steps[-1])
    axes.set_xlim(steps[0] - 0.7, steps[-1] + 0.7)
    axes.set_ylim(0, 1.06 * max(*floor, *generation.values(), 1e-3))
    direct_labels(axes, ends)


def _colour(name: str, theme: Theme) -> str:
    colours = {
        "generate": theme.blue,
        "evaluate": theme.sky,
        "wait": theme.slate,
        "values": theme.amber,
        "policy_update": theme.green,
        "publish": theme.purple,
        "critic_update": theme.orange,
    }
    return colours.get(name, theme.muted)


def seconds_text(seconds: float) -> str:
    """A duration in at most three digits, e.g. ``0.04 s``, ``1.2 s``, ``475 s``."""
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 99.5 else f"{seconds:.0f} s"
