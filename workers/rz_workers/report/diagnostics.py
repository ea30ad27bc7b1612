"""How the training went: charts by which a researcher judges whether a run can be trusted. ``charts`` takes them.

Names and formulas of what is drawn are in ``rz_api.step_metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from rz_workers.report.curves import SMOOTHED, End, Panel, finish, highest, lines, plain, trained
from rz_workers.report.record import RunRecord
from rz_workers.report.series import Series, chosen_steps, metric
from rz_workers.report.style import Theme, direct_labels, share_axis, title
from rz_workers.storage.records import VerdictCount
from rz_workers.verdicts import shares

CURVES = 6
"""As many as a chart has colours for (``Theme.cycle``)."""
_DECILES = tuple(f"value_decile_{i}_mean" for i in range(1, 11))


def _explained_variance(axes: Axes, record: RunRecord, theme: Theme) -> None:
    """1 is a perfect critic, 0 one that knows only the mean; what is far below 0 lies outside the picture."""
    series = metric(record.commits, "explained_variance", "explained")
    ends = trained(axes, [(series, theme.blue)])
    title(
        axes, "Explained variance of the critic", f"of the returns, by the values before the update · {SMOOTHED}", theme
    )
    low = max(-1.0, min(0.0, *series.y) * 1.1)
    axes.set_ylim(low, 1.0)
    axes.axhline(0.0, color=theme.muted, linewidth=0.8)
    finish(axes, record, [(max(height, low), label, colour) for height, label, colour in ends], "{:.2f}")


def _value_profile(axes: Axes, record: RunRecord, theme: Theme) -> None:
    """Mean value by tenth of the response, for a first, a middle and a last step."""
    steps = {commit.step: commit.metrics for commit in record.commits if any(n in commit.metrics for n in _DECILES)}
    chosen = chosen_steps(sorted(steps))
    ends: list[End] = []
    for step, colour in zip(reversed(chosen), (theme.blue, theme.sky, theme.slate), strict=False):
        points = [(i + 1, steps[step][name]) for i, name in enumerate(_DECILES) if name in steps[step]]
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, marker="o", markersize=4)
        ends.append((points[-1][1], f"step {step}", colour))
    title(axes, "Value along the response", "mean value of the tokens in each tenth of their response", theme)
    axes.set_xlabel("tenth of the response")
    axes.set_xlim(1, 10)
    axes.set_xticks(range(1, 11))
    axes.margins(y=0.1)
    direct_labels(axes, ends)


def _length_quantiles(axes: Axes, record: RunRecord, theme: Theme) -> None:
    """Band from the 10th to the 90th percentile, and the lines above it."""
    of = {name: metric(record.commits, f"response_length_{name}", name) for name in ("p10", "p50", "p90", "p99", "max")}
    axes.fill_between(of["p10"].x, of["p10"].y, of["p90"].y, color=theme.blue, alpha=0.16, linewidth=0)
    axes.plot(of["p50"].x, of["p50"].y, color=theme.blue, marker="o" if len(of["p50"].x) == 1 else None)
    axes.plot(of["p99"].x, of["p99"].y, color=theme.orange, linewidth=1.4)
    axes.plot(of["max"].x, of["max"].y, color=theme.slate, linewidth=1.1)
    colours = {"p10": theme.sky, "p50": theme.blue, "p90": theme.sky, "p99": theme.orange, "max": theme.slate}
    title(axes, "Spread of the response length", "tokens · band: 10th to 90th percentile", theme)
    axes.set_ylim(0, 1.1 * max(1.0, highest(of["max"])))
    finish(axes, record, [(of[name].y[-1], name, colour) for name, colour in colours.items()], "{:.0f}")


def _stop_reasons(axes: Axes, record: RunRecord, theme: Theme) -> None:
    """The spec's stop strings by their text, those that ever stopped a response."""
    labels = {"stop_eos_fraction": "end of sequence", "stop_length_fraction": "token limit"}
    for i, text in enumerate(record.run.spec.rollout.sampling.stop):
        labels[f"stop_string_{i}_fraction"] = f"“{plain(text)}”"
    _shares(axes, record, theme, "How responses ended", "share of responses", labels)


def _verdicts(axes: Axes, record: RunRecord, theme: Theme) -> None:
    labels = {
        f"reward_status_{status}_fraction": text
        for status, text in {
            "ok": "compared",
            "no_answer": "no answer",
            "truncated": "truncated",
            "timeout": "time limit",
            "memory": "memory limit",
            "crashed": "verifier crashed (masked)",
        }.items()
    }
    _shares(axes, record, theme, "What the verifier said", "share of responses", labels)


def _rules(axes: Axes, record: RunRecord, theme: Theme) -> None:
    """The rules that decided most in the newest step that has any."""
    of_step = {commit.step: of_rules for commit in record.commits if (of_rules := shares(commit.verdicts, "rule"))}
    steps, names = tuple(of_step), list(shares(_of_newest(record, "rule"), "rule"))[:CURVES]
    found = [Series(plain(name), steps, tuple(of_step[step].get(name, 0.0) for step in steps)) for name in names]
    _draw_shares(axes, record, theme, "What decided the reward", "share of what a rule decided", found)


def _compared(axes: Axes, record: RunRecord, theme: Theme) -> None:
    """Share of each source's responses with an answer that was compared."""
    found = []
    for source in list(shares(_of_newest(record, "source"), "source"))[:CURVES]:
        points = []
        for commit in record.commits:
            own = [count for count in commit.verdicts if count.source == source]
            if own:
                points.append((commit.step, shares(own, "status").get("ok", 0.0)))
        found.append(Series(plain(source), tuple(x for x, _ in points), tuple(y for _, y in points)))
    _draw_shares(axes, record, theme, "Answers that were compared", "share of responses, by source", found)


def _of_newest(record: RunRecord, field: str) -> tuple[VerdictCount, ...]:
    """The counts of the newest step that has any with that field."""
    return next((c.verdicts for c in reversed(record.commits) if shares(c.verdicts, field)), ())


def _has(field: str) -> Callable[[RunRecord], bool]:
    return lambda record: bool(_of_newest(record, field))


def _shares(axes: Axes, record: RunRecord, theme: Theme, heading: str, note: str, labels: dict[str, str]) -> None:
    found = [series for name, label in labels.items() if highest(series := metric(record.commits, name, label)) > 0]
    _draw_shares(axes, record, theme, heading, note, found)


def _draw_shares(axes: Axes, record: RunRecord, theme: Theme, heading: str, note: str, found: Sequence[Series]) -> None:
    ends = trained(axes, [(series, theme.cycle(i)) for i, series in enumerate(found)])
    title(axes, heading, f"{note} · {SMOOTHED}", theme)
    share_axis(axes, max((highest(series) for series in found), default=0.0))
    finish(axes, record, ends, "{:.1%}")


DIAGNOSTICS: dict[str, tuple[Panel, ...]] = {
    "stability": (
        lines(
            "Entropy of the policy",
            "nats a token",
            {"policy_entropy": ("entropy", "blue")},
            "{:.2f}",
        ),
        lines(
            "How far an update moves the policy",
            "KL(version v ‖ version v+1), nats a token",
            {"policy_update_kl": ("KL", "orange")},
            "{:.1e}",
        ),
        lines(
            "Weights that an update changes",
            "share whose published value is another one",
            {"weights_changed_fraction": ("changed", "purple")},
            "{:.1%}",
            share=True,
        ),
        lines(
            "Gradient of the policy",
            "norm before clipping",
            {"policy_grad_norm": ("norm", "blue")},
            "{:.2g}",
        ),
        lines(
            "Spread of the advantages",
            "standard deviation before normalisation",
            {"advantage_std": ("advantage", "amber")},
            "{:.2g}",
        ),
        lines(
            "Learning rates",
            "of each optimizer's last step",
            {"policy_learning_rate": ("policy", "blue"), "critic_learning_rate": ("critic", "green")},
            "{:.1e}",
        ),
    ),
    "critic": (
        lines(
            "Critic loss",
            "on the same sample before and after its updates",
            {"critic_loss_before": ("before", "slate"), "critic_loss_after": ("after", "green")},
            "{:.2g}",
        ),
        Panel(_explained_variance, ("explained_variance",)),
        Panel(_value_profile, _DECILES),
        lines(
            "Gradient of the critic",
            "mean norm over its mini-batches, before clipping",
            {"critic_grad_norm": ("norm", "green")},
            "{:.2g}",
        ),
    ),
    "mismatch": (
        lines(
            "Sampler against trainer",
            "mean difference of a sampled token's log-prob, nats",
            {"mismatch_abs_mean": ("mismatch", "slate")},
            "{:.1e}",
        ),
        lines(
            "Effective sample size",
            "of importance weights trainer : sampler, share of tokens",
            {"sampler_ess_fraction": ("ESS", "blue")},
            "{:.1%}",
            share=True,
        ),
    ),
    "lengths": (Panel(_length_quantiles, ("response_length_max",)),),
    "endings": (
        Panel(_stop_reasons, ("stop_eos_fraction",)),
        Panel(_verdicts, ("reward_status_ok_fraction",)),
        lines(
            "Groups that teach nothing",
            "share of prompt groups in which all rewards are the same",
            {"zero_variance_group_fraction": ("same reward", "orange")},
            "{:.0%}",
            share=True,
        ),
        lines(
            "Form of the responses",
            "share in the form asked for · share of repeated 4-grams",
            {"format_fraction": ("form", "green"), "repeat_score_mean": ("repeated", "orange")},
            "{:.1%}",
            share=True,
        ),
    ),
    "verdicts": (
        Panel(_rules, present=_has("rule")),
        Panel(_compared, present=_has("source")),
    ),
    "pace": (
        lines(
            "Who waits",
            "share of the time",
            {
                "trainer_idle_fraction": ("trainer idle", "orange"),
                "rollout_idle_fraction": ("rollouts idle", "sky"),
                "critic_hidden_fraction": ("critic hidden", "green"),
            },
            "{:.0%}",
            share=True,
        ),
        lines(
            "Tokens a second",
            "all rollouts · the trainer, while it computes",
            {
                "tokens_per_second_generated": ("generated", "blue"),
                "tokens_per_second_trained": ("trained", "green"),
            },
            "{:,.0f}",
        ),
        lines(
            "Model FLOPs utilisation",
            "of the trainer, while it computes",
            {"mfu": ("MFU", "green")},
            "{:.1%}",
            share=True,
        ),
    ),
}
"""Charts by file name; a panel that nothing was measured for is left out, and a chart without panels too."""
