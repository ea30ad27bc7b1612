from __future__ import annotations

import json
from typing import Any

import pytest
from operator_builders import run

from rz_api.run import read_stored_run
from rz_operator.commands.plan_text import as_json
from rz_operator.decisions.gangs import lines_of
from rz_operator.errors import UserError
from rz_operator.plan import Address, Here, Plan, Process, cpu_count, plan, render_env, wanted

ORZ_7B = {"trainer": {"nodes": 5, "gpusPerNode": 8}, "rollout": {"replicas": 24}}


class Place:
    """A place where everything is easy to recognise."""

    def address(self, address: Address) -> str:
        return f"{address.role}-{address.index}/{address.port}/{address.form}"

    def file(self, name: str) -> str:
        return f"/files/{name}"

    def here(self, what: Here) -> str:
        return f"<{what.name}>"


def env_of(process: Process) -> dict[str, str]:
    return render_env(process, Place())


def counts(planned: Plan) -> dict[str, tuple[int, int, int]]:
    """Role -> (processes, nodes, GPUs a node)."""
    return {role.role: (len(role.processes), role.nodes, role.gpus_per_node) for role in planned.roles}


SHAPES: list[tuple[str, dict[str, Any], dict[str, tuple[int, int, int]]]] = [
    (
        "one CPU machine",
        {},
        {"ledger": (1, 1, 0), "reward": (1, 1, 0), "rollout": (1, 1, 0), "trainer": (1, 1, 0)},
    ),
    (
        "two CPU ranks are two nodes of one rank",
        {"trainer": {"nodes": 2, "gpusPerNode": 0}},
        {"ledger": (1, 1, 0), "reward": (1, 1, 0), "rollout": (1, 1, 0), "trainer": (2, 2, 0)},
    ),
    (
        "the paper's 7B run",
        ORZ_7B,
        {"ledger": (1, 1, 0), "reward": (1, 1, 0), "rollout": (24, 24, 1), "trainer": (40, 5, 8)},
    ),
    (
        "tensor parallel rollouts, two rewards",
        {"trainer": {"gpusPerNode": 8}, "rollout": {"replicas": 4, "tensorParallel": 4}, "reward": {"replicas": 2}},
        {"ledger": (1, 1, 0), "reward": (2, 2, 0), "rollout": (4, 4, 4), "trainer": (8, 1, 8)},
    ),
    (
        "colocated rollouts take the trainer's GPUs in pairs",
        {"trainer": {"nodes": 2, "gpusPerNode": 8}, "rollout": {"placement": "colocated", "tensorParallel": 2}},
        {"ledger": (1, 1, 0), "reward": (1, 1, 0), "rollout": (8, 2, 0), "trainer": (16, 2, 8)},
    ),
]


@pytest.mark.parametrize(("sections", "shape"), [row[1:] for row in SHAPES], ids=[row[0] for row in SHAPES])
def test_shapes(sections: dict[str, Any], shape: dict[str, tuple[int, int, int]]) -> None:
    assert counts(plan(run(**sections))) == shape


def test_a_rank_knows_its_place_in_the_gang_and_where_rank_0_is() -> None:
    env = env_of(plan(run(**ORZ_7B)).process("trainer", 17))
    expected = {
        "RZ_ROLE": "trainer",
        "RZ_INDEX": "17",
        "RZ_INCARNATION": "<INCARNATION>",
        "RANK": "17",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "40",
        "MASTER_ADDR": "trainer-0/rendezvous/host",
        "MASTER_PORT": "trainer-0/rendezvous/port",
        "RZ_LEDGER_URL": "ledger-0/api/url",
        "RZ_RUN_FILE": "/files/run.json",
        "RZ_TOKEN_FILE": "/files/token",
        "RZ_SCRATCH": "<SCRATCH>",
        "RZ_TERMINATION_LOG": "<LAST_WORDS>",
        "RZ_BIND_HOST": "<BIND_HOST>",
        "RZ_STATUS_PORT": "trainer-17/status/port",
    }
    assert expected.items() <= env.items()
    assert "OMP_NUM_THREADS" not in env


def test_a_reward_service_knows_the_ledger_only_where_it_gets_code_from_it() -> None:
    """So that runs of an earlier release are rendered as they were."""
    plain, own = (
        env_of(plan(run(reward={"verifier": verifier})).process("reward", 0))
        for verifier in ("package.module:grade", "s3://bucket/rewards.py:grade")
    )
    assert "RZ_LEDGER_URL" not in plain
    assert own["RZ_LEDGER_URL"] == "ledger-0/api/url"


BROADCASTS: list[tuple[str, dict[str, Any], bool]] = [
    ("auto with GPUs", {"trainer": {"nodes": 2, "gpusPerNode": 4}}, True),
    ("auto without", {"trainer": {"nodes": 2, "gpusPerNode": 0}}, False),
    ("storage with GPUs", {"trainer": {"gpusPerNode": 4}, "rollout": {"weightSync": "storage"}}, False),
    ("broadcast without", {"trainer": {"nodes": 2, "gpusPerNode": 0}, "rollout": {"weightSync": "broadcast"}}, True),
]


@pytest.mark.parametrize(("sections", "sends"), [row[1:] for row in BROADCASTS], ids=[row[0] for row in BROADCASTS])
def test_every_rank_that_broadcasts_knows_where_rollouts_reach_it(sections: dict[str, Any], sends: bool) -> None:
    for process in plan(run(**sections)).role("trainer").processes:
        env = env_of(process)
        assert ("transfer" in process.ports) == sends
        if sends:
            assert env["RZ_TRANSFER_HOST"] == f"trainer-{process.index}/transfer/host"
            assert env["RZ_TRANSFER_PORT"] == f"trainer-{process.index}/transfer/port"
        else:
            assert not any(name.startswith("RZ_TRANSFER") for name in env)


def test_rollouts_share_the_rewards_evenly() -> None:
    planned = plan(run(rollout={"replicas": 4}, reward={"replicas": 2}))
    urls = [env_of(process)["RZ_REWARD_URL"] for process in planned.role("rollout").processes]
    assert urls == ["reward-0/api/url", "reward-1/api/url", "reward-0/api/url", "reward-1/api/url"]


def test_the_users_environment_comes_last_and_what_needs_a_cluster_is_kept_apart() -> None:
    env = [{"name": "RZ_LOG_LEVEL", "value": "DEBUG"}, {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s"}}}]
    role = plan(run(rollout={"env": env})).role("rollout")
    assert env_of(role.processes[0])["RZ_LOG_LEVEL"] == "DEBUG"
    assert "KEY" not in role.processes[0].env
    assert role.env_from_cluster == ({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s"}}},)


THREADS: list[tuple[str, dict[str, Any], str | None]] = [
    ("one on the CPU by default", {"gpusPerNode": 0}, "1"),
    ("the CPU request", {"gpusPerNode": 0, "resources": {"requests": {"cpu": "2500m"}}}, "2"),
    ("the node's CPUs shared by its ranks", {"gpusPerNode": 8, "resources": {"requests": {"cpu": 96}}}, "12"),
    ("torch's own choice with GPUs", {"gpusPerNode": 8}, None),
]


@pytest.mark.parametrize(("trainer", "threads"), [row[1:] for row in THREADS], ids=[row[0] for row in THREADS])
def test_threads(trainer: dict[str, Any], threads: str | None) -> None:
    assert plan(run(trainer=trainer)).process("trainer", 0).env.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(("quantity", "cpus"), [("8", 8), (8, 8), ("500m", 1), ("1.5", 1), ("16000m", 16)])
def test_cpu_quantities(quantity: str | int, cpus: int) -> None:
    assert cpu_count(quantity, "trainer") == cpus


@pytest.mark.parametrize("cpu", ["lots", "9" * 400, "٣"], ids=["a word", "more than a float holds", "other digits"])
def test_a_cpu_quantity_that_is_none_is_the_users_error(cpu: str) -> None:
    with pytest.raises(UserError, match=r"requests\.cpu: found .*; a number of CPUs is required"):
        plan(run(reward={"resources": {"requests": {"cpu": cpu}}}))


@pytest.mark.parametrize(
    ("engine", "gpus", "resolved"),
    [("auto", 0, "transformers"), ("auto", 8, "vllm"), ("transformers", 8, "transformers"), ("vllm", 0, "vllm")],
)
def test_the_engine_is_resolved_in_the_workers_run_file(engine: str, gpus: int, resolved: str) -> None:
    planned = plan(run(trainer={"gpusPerNode": gpus}, rollout={"engine": engine}))
    assert planned.files[0].content is not None
    assert read_stored_run(planned.files[0].content).run.spec.rollout.engine == resolved


def test_gpus_are_added_to_requests_and_limits_of_their_role_alone() -> None:
    planned = plan(run(trainer={"gpusPerNode": 8, "resources": {"requests": {"memory": "64Gi"}}}))
    assert planned.role("trainer").resources.requests == {"memory": "64Gi", "nvidia.com/gpu": 8}
    assert planned.role("trainer").resources.limits == {"nvidia.com/gpu": 8}
    assert planned.role("ledger").resources.limits == {}


def test_colocated_rollouts_sit_on_the_trainers_nodes_and_devices() -> None:
    planned = plan(run(trainer={"nodes": 2, "gpusPerNode": 4}, rollout={"placement": "colocated", "tensorParallel": 2}))
    rollouts = planned.role("rollout")
    assert rollouts.hosted_by == "trainer"
    assert [(process.node, process.devices) for process in rollouts.processes] == [
        (0, (0, 1)),
        (0, (2, 3)),
        (1, (0, 1)),
        (1, (2, 3)),
    ]


def test_members_are_processes_here_and_pods_on_a_cluster() -> None:
    planned = plan(run(trainer={"nodes": 2, "gpusPerNode": 4}, rollout={"placement": "colocated"}))
    by_process, by_node = wanted(planned, False), wanted(planned, False, by="node")
    assert [(role.role, role.count) for role in by_process.roles] == [
        ("ledger", 1),
        ("reward", 1),
        ("rollout", 8),
        ("trainer", 8),
    ]
    assert [(role.role, role.count) for role in by_node.roles] == [
        ("ledger", 1),
        ("reward", 1),
        ("rollout", 0),
        ("trainer", 2),
    ]
    assert by_node.role("trainer").style == "gang"
    assert by_node.role("trainer").grace_seconds == 600


@pytest.mark.parametrize(
    ("prompts", "samples", "groups", "per_lease", "units"),
    [(128, 64, 1, 16, 512), (32, 8, 8, 8, 4), (33, 9, 8, 4, 15)],
    ids=["the paper", "whole groups together", "nothing fits"],
)
def test_units_per_step(prompts: int, samples: int, groups: int, per_lease: int, units: int) -> None:
    planned = plan(
        run(
            algorithm={"promptsPerStep": prompts, "samplesPerPrompt": samples},
            rollout={"groupsPerLease": groups, "samplesPerLease": per_lease},
        )
    )
    assert planned.units_per_step == units


def test_the_plan_as_json_shows_symbols_as_text() -> None:
    shown = json.loads(as_json(plan(run()), {"fits": True}))
    trainer = next(role for role in shown["roles"] if role["role"] == "trainer")
    env = trainer["processes"][0]["env"]
    assert (env["MASTER_PORT"], env["RZ_TOKEN_FILE"]) == ("<trainer-0 rendezvous port>", "<file token>")
    assert shown["unitsPerStep"] == 512


def test_the_token_is_no_part_of_the_plan() -> None:
    token = next(file for file in plan(run()).files if file.name == "token")
    assert (token.content, token.secret) == (None, True)


@pytest.mark.parametrize(
    ("sections", "least"),
    [
        ({}, 1),
        ({"rollout": {"replicas": 5}, "scheduling": {"minRollouts": 3}}, 3),
        ({"rollout": {"replicas": 2}, "scheduling": {"minRollouts": 3}}, 2),
        ({"rollout": {"replicas": 0}}, 0),
        ({"rollout": {"placement": "colocated", "replicas": 5}}, 0),
    ],
    ids=["one by default", "as many as it says", "no more than there are", "scaled to none", "colocated"],
)
def test_how_many_rollouts_belong_to_the_gang(sections: dict[str, Any], least: int) -> None:
    made = plan(run(**sections))
    assert wanted(made, suspend=False, by="node").min_rollouts == least
    assert wanted(made, suspend=False).min_rollouts == 0, "on one machine nobody waits for nodes"


@pytest.mark.parametrize("asked", [60, 86_400], ids=["less than the limit", "more than it"])
def test_the_operators_owner_limits_how_long_a_gang_may_wait(asked: int) -> None:
    made = wanted(plan(run(scheduling={"gangTimeoutSeconds": asked})), False, "node", longest_gang_wait_seconds=600)
    assert (made.gang_timeout_seconds, made.longest_gang_wait_seconds) == (min(asked, 600), 600)


def test_a_run_stands_in_the_same_line_before_it_was_ever_looked_at() -> None:
    given = {
        "trainer": {"gpusPerNode": 8, "nodeSelector": {"gpu": "h100"}},
        "rollout": {"tolerations": [{"key": "spot", "operator": "Exists"}]},
        "scheduling": {"queueName": "team"},
    }
    found = wanted(plan(run(**given)), False, "node").lines
    assert found == lines_of(given)
    assert len(found) == 2


def test_a_run_without_gpus_stands_in_no_line() -> None:
    assert wanted(plan(run()), False, "node").lines == frozenset()
