"""The curves of a run: what each chart shows, drawn in the house style. ``main`` renders what ``charts`` returns.

Training curves have two lines: faint, each step as it was; bold, the mean over ``SMOOTHING_STEPS`` steps around it.
Evaluations are points, never smoothed.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rz_workers.report import timeline
from rz_workers.report.record import RunRecord
from rz_workers.report.series import SMOOTHING_STEPS, Series, evaluation, metric, smooth
from rz_workers.report.style import Chart, Theme, direct_labels, new_figure, share_axis, title, version_axis

SMOOTHED = f"bold: {SMOOTHING_STEPS}-step mean"

Panel = Callable[[Axes, RunRecord, Theme], None]


def charts(record: RunRecord) -> dict[str, Chart]:
    """Every chart of the run by file name (without ``.png``), in reading order. A run without evaluation sets has no
    ``accuracy``, one without timed phases no ``timeline``."""
    panels: dict[str, Panel] = {
        "reward": _reward,
        "response_length": _response_length,
        "accuracy": _accuracy,
        "truncation": _truncation,
        "reflection": _reflection,
        "mismatch": _mismatch,
    }
    if not any(summary.accuracy for summary in record.evaluations):
        del panels["accuracy"]
    if not metric(record.commits, "mismatch_abs_mean"):
        del panels["mismatch"]
    drawn: dict[str, Chart] = {name: _single(panel, record) for name, panel in panels.items()}
    if record.phases():
        drawn["timeline"] = lambda theme: timeline.draw(record, theme)
    ranked = ("accuracy", "response_length", "reward", "reflection", "truncation")
    overview = [panels[name] for name in ranked if name in panels][:4]
    drawn["curves"] = lambda theme: _overview(overview, record, theme)
    return drawn


def _single(panel: Panel, record: RunRecord) -> Chart:
    def draw(theme: Theme) -> Figure:
        figure = new_figure()
        panel(figure.add_subplot(), record, theme)
        return figure

    return draw


def _overview(panels: list[Panel], record: RunRecord, theme: Theme) -> Figure:
    """The picture for the README: four panels in two columns."""
    figure = new_figure(width=11.5, height=7.0)
    for i, panel in enumerate(panels):
        panel(figure.add_subplot(2, 2, i + 1), record, theme)
    return figure


def _reward(axes: Axes, record: RunRecord, theme: Theme) -> None:
    series = metric(record.commits, "reward_mean", "reward")
    ends = _trained(axes, [(series, theme.blue)])
    title(axes, "Reward on training prompts", f"share of correct responses · {SMOOTHED}", theme)
    share_axis(axes, _highest(series))
    _finish(axes, record, ends, "{:.0%}")


def _response_length(axes: Axes, record: RunRecord, theme: Theme) -> None:
    lines = [
        (metric(record.commits, "response_length_mean", "all"), theme.blue),
        (metric(record.commits, "response_length_correct_mean", "correct"), theme.green),
        (metric(record.commits, "response_length_incorrect_mean", "incorrect"), theme.orange),
    ]
    ends = _trained(axes, lines)
    evaluated = [evaluation(record.evaluations, "response_length_mean", name) for name in record.eval_sets]
    ends += _evaluated(axes, [(s, theme.purple if len(evaluated) == 1 else theme.slate) for s in evaluated])
    title(axes, "Response length", f"mean tokens of a response · {SMOOTHED} · dots: evaluation", theme)
    axes.set_ylim(
        0, max(1.0, *(1.1 * _highest(series) for series, _ in lines), *(1.1 * _highest(s) for s in evaluated))
    )
    _finish(axes, record, ends, "{:.0f}")


def _accuracy(axes: Axes, record: RunRecord, theme: Theme) -> None:
    evaluated = [evaluation(record.evaluations, "accuracy", name) for name in record.eval_sets]
    ends = _evaluated(axes, [(series, theme.cycle(i)) for i, series in enumerate(evaluated)])
    samples = record.run.spec.evaluation.samples
    per_problem = "1 sample" if samples == 1 else f"{samples} samples"
    title(axes, "Accuracy on evaluation problems", f"mean over {per_problem} of each problem", theme)
    share_axis(axes, max(_highest(series) for series in evaluated))
    _finish(axes, record, ends, "{:.0%}")


def _truncation(axes: Axes, record: RunRecord, theme: Theme) -> None:
    series = metric(record.commits, "truncated_fraction", "truncated")
    ends = _trained(axes, [(series, theme.orange)])
    limit = record.run.spec.rollout.sampling.max_new_tokens
    title(axes, "Truncated responses", f"share that reached the limit of {limit:,} tokens · {SMOOTHED}", theme)
    share_axis(axes, _highest(series))
    _finish(axes, record, ends, "{:.1%}")


def _reflection(axes: Axes, record: RunRecord, theme: Theme) -> None:
    series = metric(record.commits, "reflection_fraction", "reflecting")
    ends = _trained(axes, [(series, theme.purple)])
    title(axes, "Reflection", f"share of responses with “wait,”, “recheck”, … · {SMOOTHED}", theme)
    share_axis(axes, _highest(series))
    _finish(axes, record, ends, "{:.1%}")


def _mismatch(axes: Axes, record: RunRecord, theme: Theme) -> None:
    series = metric(record.commits, "mismatch_abs_mean", "mismatch")
    ends = _trained(axes, [(series, theme.slate)])
    title(axes, "Sampler against trainer", f"mean difference of a sampled token's log-prob, nats · {SMOOTHED}", theme)
    axes.set_ylim(0, 1.1 * _highest(series) or 1e-6)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")
    _finish(axes, record, ends, "{:.1e}")


End = tuple[float, str, str]


def _trained(axes: Axes, lines: list[tuple[Series, str]]) -> list[End]:
    """Draw training curves; returns where their labels go."""
    ends = []
    for series, colour in lines:
        if not series:
            continue
        bold = smooth(series)
        axes.plot(series.x, series.y, color=colour, alpha=0.28, linewidth=1.1)
        axes.plot(bold.x, bold.y, color=colour, marker="o" if len(bold.x) == 1 else None)
        ends.append((bold.y[-1], series.label, colour))
    return ends


def _evaluated(axes: Axes, lines: list[tuple[Series, str]]) -> list[End]:
    """Draw evaluations as joined points; returns where their labels go."""
    ends = []
    for series, colour in lines:
        if not series:
            continue
        axes.plot(series.x, series.y, color=colour, linewidth=1.6, marker="o", markersize=5, clip_on=False, zorder=3)
        ends.append((series.y[-1], series.label, colour))
    return ends


def _finish(axes: Axes, record: RunRecord, ends: list[End], form: str) -> None:
    version_axis(axes, record.commits[-1].step + 1)
    direct_labels(axes, [(height, f"{label} {form.format(height)}", colour) for height, label, colour in ends])


def _highest(series: Series) -> float:
    return max(series.y, default=0.0)
