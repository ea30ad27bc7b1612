"""What was not measured has no chart, rather than an empty one.

The charts of a run by file name: what the model learned is drawn here, how the training went in ``diagnostics``.
``main`` renders what ``charts`` returns.
"""

from __future__ import annotations

from matplotlib.axes import Axes

from rz_workers.report import timeline
from rz_workers.report.curves import SMOOTHED, Panel, chart, evaluated, finish, highest, lines, trained
from rz_workers.report.diagnostics import DIAGNOSTICS
from rz_workers.report.record import RunRecord
from rz_workers.report.series import evaluation, metric
from rz_workers.report.style import Chart, Theme, share_axis, title


def charts(record: RunRecord) -> dict[str, Chart]:
    """Every chart of the run by file name (without ``.png``). What was not measured has no chart: a run without
    evaluation sets has no ``accuracy``, one without timed phases no ``timeline``."""
    learning = dict(LEARNING)
    if not any(summary.accuracy for summary in record.evaluations):
        del learning["accuracy"]
    drawn = {name: chart([panel], record) for name, panel in learning.items()}
    for name, panels in DIAGNOSTICS.items():
        if found := [panel for panel in panels if panel.has_data(record)]:
            drawn[name] = chart(found, record)
    if record.phases():
        drawn["timeline"] = lambda theme: timeline.draw(record, theme)
    ranked = ("accuracy", "response_length", "reward", "reflection", "truncation")
    drawn["curves"] = chart([learning[name] for name in ranked if name in learning][:4], record)
    return drawn


def _response_length(axes: Axes, record: RunRecord, theme: Theme) -> None:
    curves = [
        (metric(record.commits, "response_length_mean", "all"), theme.blue),
        (metric(record.commits, "response_length_correct_mean", "correct"), theme.green),
        (metric(record.commits, "response_length_incorrect_mean", "incorrect"), theme.orange),
    ]
    ends = trained(axes, curves)
    evaluations = [evaluation(record.evaluations, "response_length_mean", name) for name in record.eval_sets]
    ends += evaluated(axes, [(s, theme.purple if len(evaluations) == 1 else theme.slate) for s in evaluations])
    title(axes, "Response length", f"mean tokens of a response · {SMOOTHED} · dots: evaluation", theme)
    axes.set_ylim(0, max(1.0, *(1.1 * highest(series) for series in (*(s for s, _ in curves), *evaluations))))
    finish(axes, record, ends, "{:.0f}")


def _accuracy(axes: Axes, record: RunRecord, theme: Theme) -> None:
    evaluations = [evaluation(record.evaluations, "accuracy", name) for name in record.eval_sets]
    ends = evaluated(axes, [(series, theme.cycle(i)) for i, series in enumerate(evaluations)])
    samples = record.run.spec.evaluation.samples
    per_problem = "1 sample" if samples == 1 else f"{samples} samples"
    title(axes, "Accuracy on evaluation problems", f"mean over {per_problem} of each problem", theme)
    share_axis(axes, max(highest(series) for series in evaluations))
    finish(axes, record, ends, "{:.0%}")


def _truncation(axes: Axes, record: RunRecord, theme: Theme) -> None:
    series = metric(record.commits, "truncated_fraction", "truncated")
    ends = trained(axes, [(series, theme.orange)])
    limit = record.run.spec.rollout.sampling.max_new_tokens
    title(axes, "Truncated responses", f"share that reached the limit of {limit:,} tokens · {SMOOTHED}", theme)
    share_axis(axes, highest(series))
    finish(axes, record, ends, "{:.1%}")


LEARNING: dict[str, Panel] = {
    "reward": lines(
        "Reward on training prompts",
        "share of correct responses",
        {"reward_mean": ("reward", "blue")},
        "{:.0%}",
        share=True,
    ),
    "response_length": Panel(_response_length),
    "accuracy": Panel(_accuracy),
    "truncation": Panel(_truncation),
    "reflection": lines(
        "Reflection",
        "share of responses with “wait,”, “recheck”, …",
        {"reflection_fraction": ("reflecting", "purple")},
        "{:.1%}",
        share=True,
    ),
}
"""Each a chart of its own, there whatever was measured; the best four are the overview ``curves``."""
