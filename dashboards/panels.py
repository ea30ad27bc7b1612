"""What the three dashboards show, as tables: page, row, panel, queries. ``render_dashboards`` makes their JSON.

In queries ``%`` stands for the selector of the chosen runs, and figures of a step can be written by their short name:
``reward_mean`` is ``max by (run) (rz_trainer_reward_mean%)``, for the trainer's first rank alone serves it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rz_api.step_metrics import LENGTH_PERCENTILES, STEP_METRICS

SELECTOR = '{namespace="$namespace", run=~"$run"}'


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    """Grafana's name of it."""
    description: str
    """What to see in it. The formulas of its figures of a step are put behind it."""
    queries: dict[str, str]
    """Legend -> query, or short name of a figure of a step."""
    stacked: bool = False
    wide: bool = False
    maximum: float | None = None

    def expressions(self) -> dict[str, str]:
        """Legend -> query for Prometheus; Grafana's variables are still in it."""
        return {legend: expression(query) for legend, query in self.queries.items()}

    def explained(self) -> str:
        """The description with the formula of each figure of a step."""
        formulas = [f"{name}: {STEP_METRICS[name].formula}." for name in self.queries.values() if name in STEP_METRICS]
        return "\n\n".join([self.description, *formulas])


@dataclass(frozen=True)
class Page:
    uid: str
    title: str
    description: str
    rows: dict[str, tuple[Panel, ...]]
    by_run: bool = True
    """Whether it has the variable ``run``."""

    def panels(self) -> list[Panel]:
        return [panel for panels in self.rows.values() for panel in panels]


def expression(query: str) -> str:
    if query in STEP_METRICS:
        return f"max by (run) (rz_trainer_{query}{SELECTOR})"
    return query.replace("%", SELECTOR)


def rate(metric: str, *labels: str) -> str:
    """Of a counter, a second, by run and ``labels``."""
    return f"sum by ({', '.join(('run', *labels))}) (rate({metric}%[$__rate_interval]))"


def quantile(share: float, histogram: str) -> str:
    buckets = f"sum by (run, le) (rate({histogram}_bucket%[$__rate_interval]))"
    return f"histogram_quantile({share}, {buckets})"


TRAINING = Page(
    "reasonerzero-training",
    "ReasonerZero / Training",
    "Whether the model becomes a reasoner: reward and response length rise together, and accuracy with them.",
    {
        "Reward and response length": (
            Panel(
                "Reward",
                "percentunit",
                "Should rise and level off. A fall by half: see the runbook, ReasonerZeroRewardCollapse.",
                {"{{run}}": "max by (run) (rz_ledger_reward_mean%)"},
                wide=True,
                maximum=1.0,
            ),
            Panel(
                "Response length",
                "short",
                "Tokens. In this method it rises together with the reward; correct responses tell more than all.",
                {
                    "{{run}} all": "response_length_mean",
                    "{{run}} correct": "response_length_correct_mean",
                    "{{run}} incorrect": "response_length_incorrect_mean",
                },
                wide=True,
            ),
        ),
        "Accuracy": (
            Panel(
                "Accuracy by evaluation set",
                "percentunit",
                "Share of correct responses of the newest finished evaluation; held out, so this is the result.",
                {"{{run}} {{set}}": "max by (run, set) (rz_ledger_eval_accuracy%)"},
                wide=True,
                maximum=1.0,
            ),
            Panel(
                "Pass at n, and groups that teach nothing",
                "percentunit",
                "Groups whose rewards are all the same teach nothing. Many of them: data too easy or too hard.",
                {"{{run}} pass at n": "pass_at_n", "{{run}} all the same": "zero_variance_group_fraction"},
                wide=True,
                maximum=1.0,
            ),
        ),
        "Quality of responses": (
            Panel(
                "Length percentiles",
                "short",
                "Tokens. The upper ones run into maxNewTokens first.",
                {f"{{{{run}}}} p{p}": f"response_length_p{p}" for p in LENGTH_PERCENTILES}
                | {"{{run}} longest": "response_length_max"},
            ),
            Panel(
                "Truncated, and in form",
                "percentunit",
                "A truncated response has reward 0. Form is not rewarded; it is learnt because answers must be found.",
                {"{{run}} truncated": "truncated_fraction", "{{run}} in form": "format_fraction"},
                maximum=1.0,
            ),
            Panel(
                "Reflection",
                "percentunit",
                "Responses that look back at what they said. Rises in the paper's runs; in small models it need not.",
                {"{{run}} share": "reflection_fraction"},
                maximum=1.0,
            ),
            Panel(
                "Repetition",
                "percentunit",
                "Rises when the model loops; together with truncation a sign of collapse.",
                {"{{run}}": "repeat_score_mean"},
                maximum=1.0,
            ),
            Panel(
                "Verdicts",
                "percentunit",
                "How trajectories were judged.",
                {
                    "{{run}} compared": "reward_status_ok_fraction",
                    "{{run}} no answer": "reward_status_no_answer_fraction",
                    "{{run}} truncated": "reward_status_truncated_fraction",
                    "{{run}} timeout": "reward_status_timeout_fraction",
                    "{{run}} memory limit": "reward_status_memory_fraction",
                    "{{run}} masked": "reward_status_crashed_fraction",
                },
                maximum=1.0,
            ),
            Panel(
                "What decided the reward",
                "percentunit",
                "Share of what a rule of the verifier decided, by rule.",
                {
                    "{{run}} {{rule}}": 'sum by (run, rule) (rz_trainer_rules{namespace="$namespace", run=~"$run", '
                    'rule!=""}) / on (run) group_left () sum by (run) (rz_trainer_rules{namespace="$namespace", '
                    'run=~"$run", rule!=""})'
                },
                stacked=True,
                maximum=1.0,
            ),
            Panel(
                "Answers that were compared, by source",
                "percentunit",
                "Share of each source's responses. One source that falls behind has references or a form of its own.",
                {
                    "{{run}} {{source}}": 'sum by (run, source) (rz_trainer_verdicts{namespace="$namespace", '
                    'run=~"$run", status="ok"}) / sum by (run, source) (rz_trainer_verdicts%)'
                },
                maximum=1.0,
            ),
            Panel(
                "How responses end",
                "percentunit",
                "By a stop string, by an end-of-sequence token, or at the limit.",
                {
                    "{{run}} stop string": "1 - max by (run) (rz_trainer_stop_eos_fraction%) "
                    "- max by (run) (rz_trainer_stop_length_fraction%)",
                    "{{run}} end of sequence": "stop_eos_fraction",
                    "{{run}} limit": "stop_length_fraction",
                },
                maximum=1.0,
            ),
        ),
        "Stability": (
            Panel(
                "Entropy",
                "short",
                "Falls slowly. Near 0 the policy explores nothing any more.",
                {"{{run}}": "policy_entropy"},
            ),
            Panel(
                "Values",
                "short",
                "The critic's estimate follows the reward; explained variance far below 0 means that it does not.",
                {"{{run}} value": "value_mean", "{{run}} explained variance": "explained_variance"},
            ),
            Panel(
                "Losses",
                "short",
                "The critic's should fall within a step: before against after its updates, on the same tokens.",
                {
                    "{{run}} policy": "policy_loss",
                    "{{run}} critic": "critic_loss",
                    "{{run}} critic before": "critic_loss_before",
                    "{{run}} critic after": "critic_loss_after",
                },
            ),
            Panel(
                "Gradient norms",
                "short",
                "Before clipping. Single spikes are normal, a level that rises by a factor is not.",
                {"{{run}} policy": "policy_grad_norm", "{{run}} critic": "critic_grad_norm"},
            ),
            Panel(
                "How far an update moves the policy",
                "short",
                "Nats between two versions, and the share of weights that changed at all in the dtype of the run.",
                {"{{run}} KL": "policy_update_kl", "{{run}} weights changed": "weights_changed_fraction"},
            ),
            Panel(
                "Ratio",
                "short",
                "1 in a strictly on-policy step; clipping then tells nothing.",
                {"{{run}} largest ratio": "ratio_max", "{{run}} clipped": "clip_fraction"},
            ),
            Panel(
                "Sampler against trainer",
                "short",
                "Nats between their log-probabilities of the same tokens. Above 0.05: ReasonerZeroMismatchHigh.",
                {"{{run}} mean": "mismatch_abs_mean", "{{run}} k3": "mismatch_k3", "{{run}} max": "mismatch_max"},
            ),
            Panel(
                "Staleness and effective samples",
                "short",
                "Versions between sampling and training: 0 in a strictly on-policy run.",
                {"{{run}} staleness": "staleness_mean", "{{run}} effective samples": "sampler_ess_fraction"},
            ),
            Panel(
                "Learning rates",
                "short",
                "As the optimizers used them.",
                {"{{run}} policy": "policy_learning_rate", "{{run}} critic": "critic_learning_rate"},
            ),
        ),
    },
)

SYSTEM = Page(
    "reasonerzero-system",
    "ReasonerZero / System",
    "Where the time goes, who waits for whom, and whether storage, weights and the verifier keep up.",
    {
        "A step": (
            Panel(
                "Seconds of the newest step by phase",
                "s",
                "The trainer's phases; the critic's update runs behind generation where devices are not shared.",
                {
                    f"{{{{run}}}} {phase}": f"seconds_{phase}"
                    for phase in (
                        "wait",
                        "values",
                        "policy_update",
                        "measure",
                        "publish",
                        "critic_update",
                        "checkpoint",
                    )
                },
                stacked=True,
                wide=True,
            ),
            Panel("Seconds a step", "s", "Wall time from commit to commit.", {"{{run}}": "seconds_step"}, wide=True),
            Panel(
                "Idle and overlap",
                "percentunit",
                "Waits of the trainer, of the rollouts, and the share of the critic's update that cost no time.",
                {
                    "{{run}} trainer idle": "trainer_idle_fraction",
                    "{{run}} rollouts idle": "rollout_idle_fraction",
                    "{{run}} critic hidden": "critic_hidden_fraction",
                },
                maximum=1.0,
            ),
            Panel(
                "What the trainer does now",
                "short",
                "1 for its phase.",
                {"{{run}} {{phase}}": "max by (run, phase) (rz_trainer_phase%)"},
                stacked=True,
            ),
            Panel(
                "Who has to act next",
                "short",
                "1 for the role that the run waits for.",
                {"{{run}} {{blocker}}": "max by (run, blocker) (rz_ledger_blocking%)"},
                stacked=True,
            ),
        ),
        "Throughput": (
            Panel(
                "Tokens a second, of the newest step",
                "short",
                "Response tokens while generation runs; prompt and response tokens while the models train.",
                {"{{run}} generated": "tokens_per_second_generated", "{{run}} trained": "tokens_per_second_trained"},
            ),
            Panel(
                "Tokens a second, now",
                "short",
                "From the processes' own counters.",
                {
                    "{{run}} sampled": rate("rz_rollout_tokens_total"),
                    "{{run}} trained": rate("rz_trainer_tokens_total"),
                },
            ),
            Panel(
                "Model FLOPs utilisation",
                "percentunit",
                "Only on GPUs whose peak is known.",
                {"{{run}}": "mfu"},
                maximum=1.0,
            ),
            Panel(
                "Operations a second of a rank",
                "short",
                "FLOP/s while the models train.",
                {"{{run}}": "flops_per_second_trained"},
            ),
        ),
        "Leases": (
            Panel(
                "Units of the step",
                "short",
                "Done, in the hands of rollouts, and all.",
                {
                    "{{run}} done": "max by (run) (rz_ledger_units_done%)",
                    "{{run}} leased": "max by (run) (rz_ledger_units_leased%)",
                    "{{run}} all": "max by (run) (rz_ledger_units%)",
                },
            ),
            Panel(
                "Ages",
                "s",
                "Of the oldest lease and of the oldest unfinished step; and the time since anything was completed.",
                {
                    "{{run}} oldest lease": "max by (run) (rz_ledger_oldest_lease_seconds%)",
                    "{{run}} oldest unit": "max by (run) (rz_ledger_oldest_unit_seconds%)",
                    "{{run}} since progress": "max by (run) (rz_ledger_last_progress_seconds%)",
                },
            ),
            Panel(
                "Leases by what became of them",
                "short",
                "A second. Expired ones mean rollouts that died or hang; duplicates are completions that came second.",
                {
                    f"{{{{run}}}} {name}": rate(f"rz_ledger_leases_{name}_total")
                    for name in ("issued", "completed", "expired", "adopted", "duplicates", "found")
                },
            ),
            Panel(
                "Rollouts",
                "short",
                "Heard of lately; asleep where devices are shared; unproven ones compute with other weights.",
                {
                    "{{run}} alive": "max by (run) (rz_ledger_rollouts%)",
                    "{{run}} asleep": "max by (run) (rz_ledger_rollouts_asleep%)",
                    "{{run}} unproven": "max by (run) (rz_ledger_rollouts_unproven%)",
                },
            ),
            Panel(
                "What rollouts do",
                "short",
                "Seconds a second, over all rollouts: how many are in each phase on average.",
                {"{{run}} {{phase}}": rate("rz_rollout_seconds_total", "phase")},
                stacked=True,
            ),
            Panel(
                "Units of rollouts by outcome",
                "short",
                "A second.",
                {"{{run}} {{outcome}}": rate("rz_rollout_units_total", "outcome")},
            ),
        ),
        "Weights": (
            Panel(
                "Seconds of a publication",
                "s",
                "Median, by way.",
                {
                    "{{run}} {{way}}": "histogram_quantile(0.5, sum by (run, way, le) "
                    "(rate(rz_trainer_publication_seconds_bucket%[$__rate_interval])))"
                },
            ),
            Panel(
                "Bytes published",
                "Bps",
                "A second, by way.",
                {"{{run}} {{way}}": rate("rz_trainer_publication_bytes_total", "way")},
            ),
            Panel(
                "Updates by outcome",
                "short",
                "A second. `broadcast failed` and `stale` cost a load from storage each.",
                {"{{run}} {{outcome}}": rate("rz_rollout_weight_updates_total", "outcome")},
            ),
            Panel(
                "Seconds of an update",
                "s",
                "From its begin to its proof.",
                {
                    "{{run}} median": quantile(0.5, "rz_rollout_weight_update_seconds"),
                    "{{run}} p95": quantile(0.95, "rz_rollout_weight_update_seconds"),
                },
            ),
            Panel(
                "Versions",
                "short",
                "Newest published, and oldest that a rollout holds: they part while weights travel.",
                {
                    "{{run}} published": "max by (run) (rz_ledger_weight_version%)",
                    "{{run}} oldest held": "min by (run) (rz_rollout_weight_version%)",
                },
            ),
        ),
        "Verifier": (
            Panel(
                "Verdicts by status",
                "short",
                "A second.",
                {"{{run}} {{status}}": rate("rz_reward_verdicts_total", "status")},
                stacked=True,
            ),
            Panel(
                "Seconds of a request",
                "s",
                "For the verdicts of a lease.",
                {
                    "{{run}} median": quantile(0.5, "rz_reward_request_seconds"),
                    "{{run}} p95": quantile(0.95, "rz_reward_request_seconds"),
                },
            ),
            Panel(
                "Comparisons",
                "short",
                "A second. Crashes never become a reward.",
                {
                    f"{{{{run}}}} {name.replace('_', ' ')}": rate(f"rz_reward_{name}_total")
                    for name in ("comparisons", "cache_hits", "timeouts", "crashes", "children_started")
                },
            ),
            Panel(
                "Requests under way",
                "short",
                "Each holds the responses of a lease.",
                {"{{run}}": "sum by (run) (rz_reward_requests_waiting%)"},
            ),
        ),
        "Storage": (
            Panel(
                "Requests",
                "short",
                "A second, by operation.",
                {"{{run}} {{operation}}": rate("rz_storage_requests_total", "operation")},
            ),
            Panel(
                "Errors and retries",
                "short",
                "A second. Callers try again for five minutes; then the run stalls and loses nothing.",
                {
                    "{{run}} errors": f"{rate('rz_storage_errors_total')} or 0 * {rate('rz_storage_requests_total')}",
                    "{{run}} retries": f"{rate('rz_storage_retries_total')} or 0 * {rate('rz_storage_requests_total')}",
                },
            ),
            Panel(
                "Seconds of a request",
                "s",
                "Mean, by operation.",
                {
                    "{{run}} {{operation}}": f"{rate('rz_storage_seconds_total', 'operation')} / "
                    f"({rate('rz_storage_requests_total', 'operation')} > 0)"
                },
            ),
            Panel("Bytes", "Bps", "A second.", {"{{run}} {{direction}}": rate("rz_storage_bytes_total", "direction")}),
        ),
    },
)

FLEET = Page(
    "reasonerzero-fleet",
    "ReasonerZero / Fleet",
    "All runs of all namespaces, and the operator.",
    {
        "Runs": (
            Panel(
                "Runs by phase",
                "short",
                "Pending: not accepted, or nothing started.",
                {"{{phase}}": "sum by (phase) (rz_operator_runs)"},
                stacked=True,
                wide=True,
            ),
            Panel(
                "In trouble",
                "short",
                "Stalled runs, and those that have had four fifths of their restarts.",
                {
                    "stalled": "sum(rz_operator_runs_stalled)",
                    "near the restart limit": "sum(rz_operator_runs_near_restart_limit)",
                },
                wide=True,
            ),
            Panel(
                "Progress",
                "percentunit",
                "Committed steps of all steps.",
                {"{{namespace}}/{{run}}": "max by (namespace, run) (rz_ledger_step / rz_ledger_total_steps)"},
                maximum=1.0,
            ),
            Panel(
                "Time to the end",
                "s",
                "Seconds a step times the steps that are left.",
                {"{{namespace}}/{{run}}": "max by (namespace, run) (rz_ledger_eta_seconds)"},
            ),
            Panel(
                "Reward",
                "percentunit",
                "Of the newest step.",
                {"{{namespace}}/{{run}}": "max by (namespace, run) (rz_ledger_reward_mean)"},
                maximum=1.0,
            ),
            Panel(
                "Time since progress",
                "s",
                "Since a unit, step or publication was completed. Half an hour: ReasonerZeroRunStalled.",
                {"{{namespace}}/{{run}}": "max by (namespace, run) (rz_ledger_last_progress_seconds)"},
            ),
            Panel(
                "Trainer gangs",
                "short",
                "Incarnations so far: one more per restart.",
                {"{{namespace}}/{{run}}": "max by (namespace, run) (rz_ledger_incarnation)"},
            ),
            Panel(
                "Rollouts",
                "short",
                "Heard of lately.",
                {"{{namespace}}/{{run}}": "max by (namespace, run) (rz_ledger_rollouts)"},
            ),
        ),
        "Operator": (
            Panel(
                "Ends of pods",
                "short",
                "In an hour, by role and reason.",
                {"{{role}} {{reason}}": "sum by (role, reason) (increase(rz_operator_restarts_total[1h]))"},
            ),
            Panel(
                "Queue",
                "short",
                "Runs that are due and wait.",
                {"depth": "max(rz_operator_queue_depth)", "oldest, seconds": "max(rz_operator_queue_age_seconds)"},
            ),
            Panel(
                "Reconciles",
                "short",
                "A second, by result.",
                {"{{result}}": "sum by (result) (rate(rz_operator_reconciles_total[$__rate_interval]))"},
            ),
            Panel(
                "Seconds of a reconcile",
                "s",
                "p95, and the oldest one under way.",
                {
                    "p95": "histogram_quantile(0.95, "
                    "sum by (le) (rate(rz_operator_reconcile_seconds_bucket[$__rate_interval])))",
                    "under way": "max(rz_operator_longest_reconcile_seconds)",
                },
            ),
            Panel(
                "API server",
                "short",
                "Requests a second, by status.",
                {"{{code}}": "sum by (code) (rate(rz_operator_api_requests_total[$__rate_interval]))"},
            ),
            Panel(
                "Seconds of a request to the API server",
                "s",
                "p95 by verb.",
                {
                    "{{verb}}": "histogram_quantile(0.95, "
                    "sum by (verb, le) (rate(rz_operator_api_request_seconds_bucket[$__rate_interval])))"
                },
            ),
            Panel(
                "Refused creations",
                "short",
                "In an hour, by kind: quota, a webhook, an invalid object.",
                {"{{kind}}": "sum by (kind) (increase(rz_operator_create_refusals_total[1h]))"},
            ),
            Panel(
                "Polls of ledgers, and events",
                "short",
                "A second, by result.",
                {
                    "poll {{result}}": "sum by (result) (rate(rz_operator_ledger_polls_total[$__rate_interval]))",
                    "event {{result}}": "sum by (result) (rate(rz_operator_events_total[$__rate_interval]))",
                },
            ),
        ),
    },
    by_run=False,
)

PAGES = {"training": TRAINING, "system": SYSTEM, "fleet": FLEET}
"""Name of the file -> dashboard."""
