"""A metric that is not here is not there: every Prometheus metric of every role, with name, unit, labels and formula
(but for vLLM's own ``vllm:*`` and prometheus-client's ``process_*`` and ``python_*``, which come with those libraries).

The roles make their prometheus-client objects with ``described``, so that no name, help text or label stands twice;
docs/metrics.md, the dashboards and the alerts are checked against ``FAMILIES``.

Every label has a bound: a closed set of words, or what the spec of a run lists. Nothing is labelled by prompt, step,
trajectory or pod; namespace, run, role and pod are put on by whoever scrapes (the chart's PodMonitor).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rz_api.step_metrics import STEP_METRICS

Kind = Literal["counter", "gauge", "histogram"]
Server = Literal["ledger", "rollout", "trainer", "reward", "operator", "worker"]
"""Who serves it. ``worker``: ledger, rollout and trainer, whoever speaks to storage."""


@dataclass(frozen=True)
class Family:
    """One metric with all its label values.

    Worked example: ``Family("rz_rollout_units_total", "rollout", "counter", "units", "Units.", {"outcome": "…"})``
    is scraped as ``rz_rollout_units_total{outcome="stored"} 12``.
    """

    name: str
    """As it is scraped, without a histogram's ``_bucket``, ``_sum`` and ``_count``."""
    server: Server
    kind: Kind
    unit: str
    """``1`` for a plain number, ``fraction`` for one in [0, 1]; else s, bytes, tokens, …"""
    formula: str
    """What it counts, or how it is computed. The help text of ``/metrics``."""
    labels: dict[str, str] = field(default_factory=dict)
    """Label -> what its values are and what bounds them."""


def described(name: str) -> tuple[str, str, list[str]]:
    """Name, help text and label names of a family, as the classes of prometheus-client want them.

    Raises KeyError for a name that is not registered: register it here first.
    """
    family = FAMILIES[name]
    return family.name, family.formula, list(family.labels)


def _step_gauges() -> list[Family]:
    """``rz_trainer_<name>`` for every figure of a step."""
    return [
        Family(
            f"rz_trainer_{name}", "trainer", "gauge", metric.unit, f"Of the newest committed step: {metric.formula}."
        )
        for name, metric in STEP_METRICS.items()
    ]


_PHASES = (
    "what the trainer does: `wait`, `values`, `policy_update`, `measure`, `publish`, `critic_update`, `checkpoint`"
)
_OPERATION = "`get`, `put`, `list`, `delete` or `head`"

_ALL: list[Family] = [
    # ---------------------------------------------------------------------------------------------------- ledger
    Family("rz_ledger_step", "ledger", "gauge", "steps", "Committed steps."),
    Family("rz_ledger_total_steps", "ledger", "gauge", "steps", "Steps of the run."),
    Family("rz_ledger_weight_version", "ledger", "gauge", "versions", "Newest published weight version."),
    Family("rz_ledger_incarnation", "ledger", "gauge", "1", "Incarnation of the trainer gang: one more per restart."),
    Family(
        "rz_ledger_phase",
        "ledger",
        "gauge",
        "1",
        "1 for the phase that the run is in, 0 for the others.",
        {"phase": "`waiting`, `adopting`, `running`, `draining` or `finished`"},
    ),
    Family(
        "rz_ledger_blocking",
        "ledger",
        "gauge",
        "1",
        "1 for the role that has to act next for the run to move on, 0 for the others.",
        {"blocker": "`none`, `rollout`, `trainer`, `reward` or `storage`"},
    ),
    Family(
        "rz_ledger_fruitless_steps",
        "ledger",
        "gauge",
        "steps",
        "Steps in a row, up to the newest committed one, from which nothing could be learned, by what that one shows; "
        "0 for every other sign.",
        {"sign": "`crashed`, `truncated`, `no_answer`, `limits`, `zero`, `one` or `equal`; causes in the runbook"},
    ),
    Family("rz_ledger_units", "ledger", "gauge", "units", "Lease units of the step in generation."),
    Family("rz_ledger_units_done", "ledger", "gauge", "units", "Lease units of the step in generation that are done."),
    Family("rz_ledger_units_leased", "ledger", "gauge", "units", "Lease units that rollouts hold, evaluations too."),
    Family("rz_ledger_eval_units", "ledger", "gauge", "units", "Lease units of open evaluations."),
    Family("rz_ledger_eval_units_done", "ledger", "gauge", "units", "Lease units of open evaluations that are done."),
    Family(
        "rz_ledger_oldest_lease_seconds",
        "ledger",
        "gauge",
        "s",
        "Now minus the time at which the oldest lease that is held was issued or adopted; 0 where none is held.",
    ),
    Family(
        "rz_ledger_oldest_unit_seconds",
        "ledger",
        "gauge",
        "s",
        "Age of the queue: now minus the first lease of the oldest batch that is begun and not complete; 0 where there "
        "is none.",
    ),
    Family("rz_ledger_rollouts", "ledger", "gauge", "rollouts", "Rollouts heard of lately."),
    Family("rz_ledger_rollouts_asleep", "ledger", "gauge", "rollouts", "Those of them that sleep (shared devices)."),
    Family(
        "rz_ledger_rollouts_unproven",
        "ledger",
        "gauge",
        "rollouts",
        "Those of them that score the canary otherwise than their peers on the same hardware.",
    ),
    Family(
        "rz_ledger_tokens_generated", "ledger", "gauge", "tokens", "Response tokens that rollouts say they sampled."
    ),
    Family("rz_ledger_reward_mean", "ledger", "gauge", "fraction", "Mean reward of the newest committed step."),
    Family(
        "rz_ledger_response_length_mean",
        "ledger",
        "gauge",
        "tokens",
        "Mean response length of the newest committed step.",
    ),
    Family(
        "rz_ledger_eval_accuracy",
        "ledger",
        "gauge",
        "fraction",
        "Share of correct responses in the newest finished evaluation of the set.",
        {"set": "names of `data.eval`"},
    ),
    Family(
        "rz_ledger_eval_version",
        "ledger",
        "gauge",
        "versions",
        "Weight version of the newest finished evaluation of the set.",
        {"set": "names of `data.eval`"},
    ),
    Family("rz_ledger_seconds_per_step", "ledger", "gauge", "s", "Median wall time of the latest steps."),
    Family("rz_ledger_eta_seconds", "ledger", "gauge", "s", "Seconds per step times the steps that are left."),
    Family("rz_ledger_checkpoint_step", "ledger", "gauge", "steps", "Steps before the newest checkpoint in storage."),
    Family(
        "rz_ledger_last_progress_seconds",
        "ledger",
        "gauge",
        "s",
        "Now minus the time at which a unit, a step or a publication was last completed.",
    ),
    Family("rz_ledger_leases_issued_total", "ledger", "counter", "leases", "Leases handed out."),
    Family(
        "rz_ledger_leases_adopted_total",
        "ledger",
        "counter",
        "leases",
        "Leases taken over from heartbeats: issued by a former ledger process, or expired and still alive.",
    ),
    Family("rz_ledger_leases_expired_total", "ledger", "counter", "leases", "Leases that expired."),
    Family("rz_ledger_leases_completed_total", "ledger", "counter", "leases", "Units completed by a rollout's word."),
    Family(
        "rz_ledger_leases_duplicates_total",
        "ledger",
        "counter",
        "leases",
        "Completions that came second and were not used.",
    ),
    Family(
        "rz_ledger_leases_found_total", "ledger", "counter", "leases", "Units completed by a shard found in storage."
    ),
    Family(
        "rz_ledger_proofs_failed_total",
        "ledger",
        "counter",
        "proofs",
        "Times that a rollout was told that it scores the canary otherwise than its peers on the same hardware.",
    ),
    # --------------------------------------------------------------------------------------------------- rollout
    Family("rz_rollout_tokens_total", "rollout", "counter", "tokens", "Response tokens sampled."),
    Family(
        "rz_rollout_units_total",
        "rollout",
        "counter",
        "units",
        "Lease units by outcome.",
        {
            "outcome": "`stored`: handed in and recorded; `lost`: dropped with its lease; `unused`: another attempt "
            "was first"
        },
    ),
    Family(
        "rz_rollout_weight_updates_total",
        "rollout",
        "counter",
        "updates",
        "Weight updates by how they ended.",
        {
            "outcome": "`storage`: loaded; `broadcast`: received; `broadcast failed`: not received; "
            "`stale`: not proven afterwards"
        },
    ),
    Family(
        "rz_rollout_weight_update_seconds",
        "rollout",
        "histogram",
        "s",
        "Wall time of a weight update, from its begin to its proof.",
    ),
    Family("rz_rollout_weight_version", "rollout", "gauge", "versions", "Weight version that the engine holds."),
    Family(
        "rz_rollout_seconds_total",
        "rollout",
        "counter",
        "s",
        "Wall time by phase.",
        {
            "phase": "`lease`: waits for one; `load`: weights; `sample`; `score`: waits for verdicts after the last "
            "token; `write`: stores and hands in"
        },
    ),
    # --------------------------------------------------------------------------------------------------- trainer
    *_step_gauges(),
    Family(
        "rz_trainer_verdicts",
        "trainer",
        "gauge",
        "trajectories",
        "Of the newest committed step: trajectories by the source of their prompt and by reward status.",
        {
            "source": "sources of `data.train`; empty for a run of an earlier release",
            "status": "`ok`, `no_answer`, `truncated`, `timeout`, `memory` or `crashed`",
        },
    ),
    Family(
        "rz_trainer_rules",
        "trainer",
        "gauge",
        "trajectories",
        "Of the newest committed step: trajectories by the rule of the verifier that decided their reward.",
        {"rule": "names that the verifier gives, empty where it gives none; `other` for what is beyond the first 32"},
    ),
    Family("rz_trainer_steps_total", "trainer", "counter", "steps", "Steps committed by this process."),
    Family(
        "rz_trainer_steps_replayed_total",
        "trainer",
        "counter",
        "steps",
        "Steps that this process computed again after a restart, from stored trajectories.",
    ),
    Family(
        "rz_trainer_tokens_total",
        "trainer",
        "counter",
        "tokens",
        "Prompt and response tokens of the steps that this process computed.",
    ),
    Family("rz_trainer_seconds_total", "trainer", "counter", "s", "Wall time by phase of a step.", {"phase": _PHASES}),
    Family(
        "rz_trainer_phase", "trainer", "gauge", "1", "1 for the phase it is in, 0 for the others.", {"phase": _PHASES}
    ),
    Family(
        "rz_trainer_publications_total",
        "trainer",
        "counter",
        "versions",
        "Weight versions handed out, by way.",
        {"way": "`storage`; `broadcast`; `skipped`: broadcast, and not stored because the writer was busy"},
    ),
    Family(
        "rz_trainer_publication_seconds",
        "trainer",
        "histogram",
        "s",
        "Wall time of handing out a weight version, by way.",
        {"way": "`storage` or `broadcast`"},
    ),
    Family(
        "rz_trainer_publication_bytes_total",
        "trainer",
        "counter",
        "bytes",
        "Bytes of tensors handed out, by way; a broadcast counts once, whatever the number of rollouts.",
        {"way": "`storage` or `broadcast`"},
    ),
    # ---------------------------------------------------------------------------------------------------- reward
    Family(
        "rz_reward_verdicts_total",
        "reward",
        "counter",
        "verdicts",
        "Verdicts given.",
        {"status": "`ok`, `no_answer`, `truncated` or `timeout`", "reward": "`0` or `1`"},
    ),
    Family("rz_reward_request_seconds", "reward", "histogram", "s", "Wall time of a request for verdicts."),
    Family("rz_reward_requests_waiting", "reward", "gauge", "requests", "Requests for verdicts that are under way."),
    Family("rz_reward_comparisons_total", "reward", "counter", "comparisons", "Pairs handed to a child."),
    Family("rz_reward_cache_hits_total", "reward", "counter", "comparisons", "Pairs whose outcome was known."),
    Family("rz_reward_timeouts_total", "reward", "counter", "comparisons", "Comparisons that took their CPU limit."),
    Family("rz_reward_crashes_total", "reward", "counter", "children", "Children that crashed."),
    Family("rz_reward_children_started_total", "reward", "counter", "children", "Children forked."),
    Family(
        "rz_reward_figure",
        "reward",
        "gauge",
        "as its verifier says",
        "Mean, over the verdicts since this process started, of a figure that a verifier gives beside the reward; of "
        "the first 64 names.",
        {"figure": "its name"},
    ),
    # --------------------------------------------------------------------------------------------------- storage
    Family(
        "rz_storage_requests_total",
        "worker",
        "counter",
        "requests",
        "Requests to object storage, each try counted.",
        {"operation": _OPERATION},
    ),
    Family(
        "rz_storage_errors_total",
        "worker",
        "counter",
        "requests",
        "Requests to object storage that failed: outages, time limits, throttling, refusals. That an object is missing "
        "or that a conditional put came second, is an answer and no failure.",
        {"operation": _OPERATION},
    ),
    Family(
        "rz_storage_retries_total",
        "worker",
        "counter",
        "requests",
        "Failed requests that were tried again.",
        {"operation": _OPERATION},
    ),
    Family(
        "rz_storage_seconds_total",
        "worker",
        "counter",
        "s",
        "Wall time of requests to object storage, waits between tries not counted.",
        {"operation": _OPERATION},
    ),
    Family(
        "rz_storage_bytes_total",
        "worker",
        "counter",
        "bytes",
        "Bytes moved by requests that succeeded.",
        {"direction": "`read` or `written`"},
    ),
    # -------------------------------------------------------------------------------------------------- operator
    Family(
        "rz_operator_runs",
        "operator",
        "gauge",
        "runs",
        "Runs that exist, by phase of their status.",
        {"phase": "the phases of a run's status, and `Other` (a phase of a newer operator)"},
    ),
    Family(
        "rz_operator_runs_near_restart_limit",
        "operator",
        "gauge",
        "runs",
        "Runs that have not ended and whose counted restarts are at least four fifths of `failurePolicy.maxRestarts`.",
    ),
    Family("rz_operator_runs_stalled", "operator", "gauge", "runs", "Runs whose condition `Stalled` is true."),
    Family(
        "rz_operator_reconciles_total",
        "operator",
        "counter",
        "reconciles",
        "Reconciles that ended.",
        {"result": "`done`; `failed`: an exception, tried again after a back-off"},
    ),
    Family(
        "rz_operator_reconcile_seconds",
        "operator",
        "histogram",
        "s",
        "Duration of a reconcile: end minus begin, failed ones and the waits for answers included.",
    ),
    Family(
        "rz_operator_queue_depth",
        "operator",
        "gauge",
        "runs",
        "Runs that are due and wait for a worker; one that is reconciled, or due later, is not counted.",
    ),
    Family(
        "rz_operator_queue_age_seconds",
        "operator",
        "gauge",
        "s",
        "Now minus the due time of the run that waits longest; 0 where none waits.",
    ),
    Family(
        "rz_operator_longest_reconcile_seconds",
        "operator",
        "gauge",
        "s",
        "Now minus the begin of the oldest reconcile under way; 0 where there is none.",
    ),
    Family(
        "rz_operator_restarts_total",
        "operator",
        "counter",
        "members",
        "Ends of members (pods) that the operator saw to, whether or not they count against the run.",
        {"role": "roles of a run", "reason": "reasons of the failure table, and `Other`"},
    ),
    Family(
        "rz_operator_api_requests_total",
        "operator",
        "counter",
        "requests",
        "Requests to the API server, but for those of the watches.",
        {
            "verb": "HTTP verbs (`CREATE` for a POST)",
            "resource": "kinds of objects that the operator handles",
            "code": "HTTP status (0: no answer)",
        },
    ),
    Family(
        "rz_operator_api_request_seconds",
        "operator",
        "histogram",
        "s",
        "Duration of a request to the API server: until the head of its answer, or its failure.",
        {"verb": "HTTP verbs (`CREATE` for a POST)"},
    ),
    Family(
        "rz_operator_watch_silent_seconds",
        "operator",
        "gauge",
        "s",
        "Now minus the newest sign of life of a watch: bytes (also of a bookmark) or the proper end of a request. Of a "
        "watch that works at most `RZ_WATCH_SECONDS`, also when nothing happens on the cluster.",
        {"resource": "kinds of objects that the operator watches"},
    ),
    Family(
        "rz_operator_watch_restarts_total",
        "operator",
        "counter",
        "restarts",
        "Restarts of the watches within the process.",
        {"reason": "`ended`: by an error, see the operator's log; `silent`: without a sign of life for too long"},
    ),
    Family(
        "rz_operator_create_refusals_total",
        "operator",
        "counter",
        "objects",
        "Creations that the API server refused (quota, a webhook, an invalid object, a taken name).",
        {"kind": "kinds of objects that the operator creates"},
    ),
    Family(
        "rz_operator_ledger_polls_total",
        "operator",
        "counter",
        "polls",
        "Polls of ledgers.",
        {
            "result": "`answered`; `silent`: no answer in time; `refused`: an HTTP status other than 200; `garbled`: "
            "not a JSON object, or too large; `failed`: a fault of the operator, see its log"
        },
    ),
    Family(
        "rz_operator_events_total",
        "operator",
        "counter",
        "events",
        "Kubernetes events.",
        {"result": "`written`; `refused` by the API server; `dropped`: too many were waiting"},
    ),
]

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""Name -> family."""
