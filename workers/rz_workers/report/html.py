"""The page loads nothing from anywhere, and nothing that a model or a data set wrote is markup in it.

``report.html``, self-contained: images are data URIs, there is no script. What came out of a model or a data set is
hostile input, and escaped. Pure: from a summary, PNGs and samples to text. Called by ``main``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import get_args

from rz_api.step_metrics import STEP_METRICS
from rz_workers.protocol.messages import RewardStatus, is_masked
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.report.record import RunRecord
from rz_workers.report.samples import SHARDS_READ, StepSamples, question_of
from rz_workers.report.summary import Summary
from rz_workers.storage.records import Recovery

CAPTIONS = {
    "reward": "Mean reward of the training responses: 1 for a correct answer that was not cut off, else 0.",
    "response_length": "Tokens of a response: all training ones, and by outcome. The method is known to make it grow.",
    "accuracy": "Mean reward on the evaluation sets. At 0 policy updates it is the base model's.",
    "truncation": "Responses cut off at the token limit. They are scored 0 and stay in training.",
    "reflection": "Responses in which the model takes a second look, by the words that the paper counts.",
    "lengths": "Long tails make steps slow: a step is complete when its longest response is.",
    "endings": "How responses ended, what the verifier made of them, and how many prompts told good from bad.",
    "verdicts": "By which rule of the verifier rewards were decided, and how much of each source could be compared.",
    "stability": "A policy that collapses shows here first: entropy falls, single updates move it far.",
    "critic": "A critic that learns has a lower loss after its updates than before, and explains more of the returns.",
    "mismatch": "The same weights score the same tokens in two programs. Rounding is all that may differ between them.",
    "pace": "Trainer and rollouts wait for each other; what the critic does behind generation costs nothing.",
    "timeline": "What rollouts and trainer did when. The critic is trained on step v while step v+1 is generated.",
}
"""One sentence under each chart; a chart without one (the overview) is not on the page."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --page: #f5f6f8; --ink: #1b2330; --muted: #667085; --line: #e3e6ec;
  --good: #12805c; --bad: #c2410c; --note: #fff6df; }
@media (prefers-color-scheme: dark) { :root { --paper: #171b22; --page: #0e1116; --ink: #e7ebf2; --muted: #98a2b3;
  --line: #2a313c; --good: #46c79a; --bad: #ff9563; --note: #322a14; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { margin: 0; font-size: 30px; letter-spacing: -.01em; } h2 { margin: 48px 0 14px; font-size: 20px; }
h3 { margin: 0 0 10px; font-size: 15px; }
.sub, figcaption, .facts th, .meta { color: var(--muted); } .sub { margin: 4px 0 0; }
.note { background: var(--note); border-radius: 10px; padding: 10px 16px; margin: 22px 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin: 26px 0 0; }
.tile, figure, .facts, .sample { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 14px 18px; } .tile b { display: block; font-size: 23px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 13.5px; }
figure { margin: 0 0 18px; padding: 16px 18px 12px; } figure img { display: block; width: 100%; height: auto; }
figcaption { font-size: 14px; margin-top: 8px; }
.facts { padding: 6px 18px; overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
th, td { text-align: left; vertical-align: top; padding: 7px 12px 7px 0; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; } .facts th { font-weight: 400; width: 13em; } td { overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; margin: 0 0 16px; }
@media (max-width: 760px) { .pair { grid-template-columns: 1fr; } }
.sample { padding: 14px 16px; min-width: 0; } .meta { font-size: 13px; margin: 10px 0 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 26em; overflow-y: auto;
  font: 13.5px/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
.question { border-left: 3px solid var(--line); padding-left: 10px; margin: 0 0 10px; color: var(--muted); }
summary { cursor: pointer; font-size: 13px; color: var(--muted); margin-top: 8px; }
"""


@dataclass(frozen=True)
class Image:
    """A chart as PNG bytes in both themes."""

    light: bytes
    dark: bytes


def page(record: RunRecord, summary: Summary, images: Mapping[str, Image], samples: Sequence[StepSamples]) -> str:
    """The whole document."""
    of_total = f" of {summary.total_steps}" if summary.total_steps else ""
    unfinished = (
        ""
        if summary.complete
        else f'<p class="note"><b>This run is not finished:</b> {summary.steps}{of_total} steps are committed. '
        "Everything below is what is there so far; make the report again to see more.</p>"
    )
    figures = "\n".join(_figure(name, images[name]) for name in CAPTIONS if name in images)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(summary.run)} · reasonerzero</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(summary.run)}</h1>
<p class="sub">{summary.steps}{of_total} steps of {escape(record.run.spec.algorithm.name.upper())} from \
{escape(record.run.spec.model.name)}, seed {summary.seed}, {duration(summary.wall_seconds)}</p>
{unfinished}
{_tiles(summary)}
<h2>Curves</h2>
{figures}
<h2>Sample responses</h2>
<p class="sub">Of the first and the last training step: the correct and the incorrect response of median length among \
the step's first {SHARDS_READ} shards, the last step's for prompts as long as the first's where there are any.</p>
<br>
{_samples(samples, record.run.spec.data.prompt_template)}
<h2>Facts</h2>
{_facts(record, summary)}
{_verdicts(record)}
{_recoveries(record.recoveries)}
<h2>Metrics</h2>
{_metrics(record)}
</main>
</body>
</html>
"""


def duration(seconds: float) -> str:
    """For people: ``48 s``, ``3 min 5 s``, ``2 h 14 min``, ``5 d 12 h``."""
    whole = round(seconds)
    for large, small, names in ((86_400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if whole >= large:
            first, second = names.split()
            return f"{whole // large} {first} {whole % large // small} {second}"
    return f"{whole} s"


def _figure(name: str, image: Image) -> str:
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(image.dark)}">'
        f'<img alt="{escape(name.replace("_", " "))}" src="{_data_uri(image.light)}"></picture>'
        f"<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _tiles(summary: Summary) -> str:
    tiles = [
        (_change(figures.accuracy_first, figures.accuracy_last, "{:.0%}"), f"accuracy on {name}, base to now")
        for name, figures in summary.evaluations.items()
    ]
    tiles += [
        (_change(summary.response_length_first, summary.response_length_last, "{:.0f}"), "tokens a training response"),
        (_change(summary.reward_first, summary.reward_last, "{:.2f}"), "training reward, first to last step"),
        (f"{summary.generated_tokens:,}", "tokens generated"),
        (duration(summary.wall_seconds), "first lease to last phase"),
    ]
    if summary.critic_hidden_fraction is not None:
        tiles.append((f"{summary.critic_hidden_fraction:.0%}", "of the critic's time behind generation"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _change(first: float | None, last: float | None, form: str) -> str:
    return " → ".join("–" if value is None else form.format(value) for value in (first, last))


def _samples(samples: Sequence[StepSamples], template: str) -> str:
    rows = []
    for kind in ("correct", "incorrect"):
        cells = "".join(_sample(step, kind, getattr(step, kind), template) for step in samples)
        rows.append(f'<div class="pair">{cells}</div>')
    return "\n".join(rows)


def _sample(step: StepSamples, kind: str, row: Trajectory | None, template: str) -> str:
    heading = f'<h3>Step {step.step} · <span class="{"good" if kind == "correct" else "bad"}">{kind}</span></h3>'
    if row is None:
        why = (
            "The trajectories of this step were deleted (storage.retention)."
            if step.missing
            else f"None of the responses looked at is {kind}."
        )
        return f'<div class="sample">{heading}<p class="meta">{why}</p></div>'
    question = question_of(row.prompt, template)
    whole = (
        ""
        if question == row.prompt
        else f"<details><summary>the whole prompt</summary><pre>{escape(row.prompt)}</pre></details>"
    )
    extracted = "none" if row.extracted_answer is None else row.extracted_answer
    return (
        f'<div class="sample">{heading}<pre class="question">{escape(question)}</pre>'
        f"<pre>{escape(row.response)}</pre>"
        f'<p class="meta">reward {row.reward:g} ({escape(row.reward_status)}) · '
        f"{len(row.response_token_ids):,} tokens · ended by {escape(row.finish_reason)} · "
        f"answer {escape(extracted)}, reference {escape(row.reference_answer)} · "
        f"prompt {escape(row.prompt_id)}</p>{whole}</div>"
    )


def _facts(record: RunRecord, summary: Summary) -> str:
    spec, data = record.run.spec, record.data
    hidden = summary.critic_hidden_fraction
    facts = {
        "spec digest": record.run.identity_digest(),
        "model": spec.model.name,
        "algorithm": f"{spec.algorithm.name}, {spec.algorithm.prompts_per_step} prompts × "
        f"{spec.algorithm.samples_per_prompt} samples a step, seed {summary.seed}",
        "steps": f"{summary.steps}" + (f" of {summary.total_steps}" if summary.total_steps else ""),
        "training prompts": f"{data.num_prompts:,}" if data else "not prepared",
        "evaluation problems": ", ".join(f"{name} {rows:,}" for name, rows in data.eval_sets.items()) or "none"
        if data
        else "not prepared",
        "dropped prompts": _dropped(record),
        "trajectories": f"{summary.trajectories_consumed:,} trained on, {summary.trajectories_unused:,} stored and not "
        f"used ({len(record.unused):,} shards)",
        "trainer restarts": f"{summary.restarts}" + (f"; {_saved(summary)}" if summary.trajectories_reused else ""),
        "critic behind generation": "not timed" if hidden is None else f"{hidden:.0%} of its time",
        "tokens generated": f"{summary.generated_tokens:,}, {summary.evaluation_tokens:,} of them in evaluations",
        "wall time": f"{duration(summary.wall_seconds)} ({summary.wall_seconds:,.1f} s), first lease to last phase",
        "weights sha256": summary.weights_sha256,
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'<div class="facts"><table>{rows}</table></div>'


def _saved(summary: Summary) -> str:
    return (
        f"replay saved the generation of {summary.tokens_reused:,} tokens, {duration(summary.generation_seconds_saved)}"
    )


def _recoveries(recoveries: Sequence[Recovery]) -> str:
    """A table of the gangs that took over from another one; nothing where none did."""
    if not recoveries:
        return ""
    head = ("gang", "went on from", "steps replayed", "taken from storage", "generation saved", "weights")
    rows = "".join(
        f"<tr><td>{recovery.incarnation} ({recovery.world_size} rank{'s' * (recovery.world_size > 1)})</td>"
        f"<td>{f'step {recovery.resumed_step}' if recovery.resumed_step else 'the start'}</td>"
        f"<td>{recovery.replayed_steps} in {duration(recovery.replay_seconds)}</td>"
        f"<td>{recovery.trajectories_reused:,} trajectories, {recovery.tokens_reused:,} tokens</td>"
        f"<td>{duration(recovery.generation_seconds_saved)}</td><td>{_outcome(recovery)}</td></tr>"
        for recovery in recoveries
    )
    return (
        '<h2>Recoveries</h2>\n<p class="sub">Trainer gangs that took over from another one. Steps since the checkpoint '
        "are computed again from stored trajectories; nothing is generated twice.</p>\n<br>\n"
        f'<div class="facts"><table><tr>{_cells(head)}</tr>{rows}</table></div>'
    )


def _verdicts(record: RunRecord) -> str:
    """A table of the last step: each source's verdicts by status; nothing where an earlier release wrote it."""
    last = record.commits[-1]
    if not last.verdicts:
        return ""
    statuses = [status for status in get_args(RewardStatus) if any(one.status == status for one in last.verdicts)]
    rows = []
    for source in sorted({one.source for one in last.verdicts}):
        own = [one for one in last.verdicts if one.source == source]
        counts = {status: sum(one.trajectories for one in own if one.status == status) for status in statuses}
        scored = sum(number for status, number in counts.items() if not is_masked(status))
        reward = _number(sum(one.reward_sum for one in own) / scored if scored else None)
        cells = "".join(f"<td>{counts[status]:,}</td>" for status in statuses)
        rows.append(f"<tr><td>{escape(source or 'not known')}</td><td>{reward}</td>{cells}</tr>")
    return (
        f'<h2>Verdicts by source</h2>\n<p class="sub">Of step {last.step}: mean reward, and responses by what the '
        "verifier said; crashed ones are masked.</p>\n<br>\n"
        f'<div class="facts"><table><tr>{_cells(("source", "reward", *statuses))}</tr>{"".join(rows)}</table></div>'
    )


def _outcome(recovery: Recovery) -> str:
    if recovery.replayed_steps == 0:
        return "nothing to compare"
    if recovery.weights_equal:
        return "the same, to the bit"
    if recovery.canary_difference_max is None:
        return "others"
    return f"others: log-probs of the canary differ by at most {recovery.canary_difference_max:.2g}"


def _metrics(record: RunRecord) -> str:
    """What the first and the last step measured, with each metric's formula; folded, for it is long."""
    first, last = record.commits[0], record.commits[-1]
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{_number(first.metrics.get(name))}</td><td>{_number(last.metrics.get(name))}</td>"
        f"<td>{escape(doc.unit)}</td><td>{escape(doc.formula)}</td></tr>"
        for name, doc in STEP_METRICS.items()
        if name in first.metrics or name in last.metrics
    )
    head = _cells(("metric", f"step {first.step}", f"step {last.step}", "unit", "what it is"))
    return (
        "<details><summary>all metrics of the first and the last step, with their formulas</summary>"
        f'<div class="facts"><table><tr>{head}</tr>{rows}</table></div></details>'
    )


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"<th>{escape(text)}</th>" for text in texts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _dropped(record: RunRecord) -> str:
    if record.data is None:
        return "not prepared"
    dropped = record.data.dropped
    if not dropped:
        return "none"
    named = ", ".join(f"{prompt.prompt_id} ({prompt.tokens:,} tokens)" for prompt in dropped[:10])
    rest = f" and {len(dropped) - 10:,} more (data/manifest.json)" if len(dropped) > 10 else ""
    return f"{len(dropped):,}, longer than {record.run.spec.data.max_prompt_tokens:,} tokens: {named}{rest}"
