"""Whole runs with the method's options: three steps each.

With ``maxStaleness: 1`` it depends on timing which version samples a unit, so that two such runs differ (tier
*equivalent*: the bound on staleness and the recorded versions are what holds; only a replay from stored trajectories is
still *bitwise*). The other runs here are as repeatable as the default one.
"""

import itertools
import math

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]

STEPS = 3


@pytest.fixture
def finished(make_run, tmp_path):
    """A run of ``STEPS`` steps without evaluations, its algorithm's fields replaced, and its commits in order."""

    def run(rollout=None, **algorithm):
        run = make_run(tmp_path, rollout=rollout or {})
        spec = run.document["spec"]
        spec["data"]["eval"] = []
        for name, value in {"totalSteps": STEPS, **algorithm}.items():
            fields = spec["algorithm"]
            fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
        code, output = run.run()
        assert code == 0, f"{output}\n{run.logs()}"
        commits = run.commits()
        assert sorted(commits) == list(range(STEPS))
        for commit in commits.values():
            assert all(math.isfinite(value) for value in commit["metrics"].values())
        return run, [commits[step] for step in range(STEPS)]

    return run


def staleness(commit):
    """Of each trajectory of a step."""
    return [commit["step"] - shard["weight_version"] for shard in commit["shards"] for _ in range(shard["rows"])]


def phase(commit, name):
    [found] = [phase for phase in commit["phases"] if phase["name"] == name]
    return found["started"], found["started"] + found["seconds"]


@pytest.mark.thorough
@pytest.mark.parametrize("correction", ["none", "tis"])
def test_at_staleness_1_the_next_step_is_generated_while_this_one_is_trained(finished, correction):
    _, commits = finished(maxStaleness=1, samplerCorrection=correction)
    for commit in commits:
        assert set(staleness(commit)) <= {0, 1}
        assert commit["metrics"]["staleness_mean"] == pytest.approx(sum(staleness(commit)) / 32)
    assert set(staleness(commits[0])) == {0}, "there is no version before the base model"
    for this, following in itertools.pairwise(commits):
        assert 1 in staleness(following)
        generation_started, _ = phase(following, "generate")
        _, published = phase(this, "publish")
        assert generation_started < published, "generation waited for the new version"
        # What version v sampled is held against version v + 1: by the clipped ratio, or by truncated weights.
        metrics = following["metrics"]
        assert metrics["mismatch_max"] > 1e-4
        assert metrics["sampler_ess_fraction"] < 1 - 1e-6
        assert (metrics["ratio_max"] > 1 + 1e-4) == (correction == "none")


def test_grpo_trains_without_a_critic_on_groups_with_both_rewards(finished):
    """The base model is rarely right: with 16 samples a prompt some groups have a right and a wrong one."""
    run, commits = finished(rollout={"samplesPerLease": 16}, name="grpo", samplesPerPrompt=16)
    critics = {"critic_loss", "critic_grad_norm", "value_mean", "explained_variance"}
    trained = []
    for commit in commits:
        metrics = commit["metrics"]
        assert metrics.keys().isdisjoint(critics)
        assert metrics["mismatch_abs_mean"] < 1e-5
        assert (metrics["policy_grad_norm"] > 0) == (metrics["zero_variance_group_fraction"] < 1)
        trained.append(metrics["policy_grad_norm"] > 0)
    assert any(trained)
    export = run.storage / "export" / "step-000003"
    assert (export / "policy" / "model.safetensors").exists()
    assert not (export / "critic").exists()


@pytest.mark.thorough
def test_a_kl_loss_and_the_other_options_of_the_papers_ablations(finished):
    schedule = {"learningRate": 1e-3, "lrSchedule": "linear", "finalLearningRate": 1e-4, "decaySteps": 3}
    _, commits = finished(
        klCoefficient=0.1,
        normalizeAdvantages=False,
        policy=schedule,
        critic={"valueClip": 0.2, "valueHeadInit": "uniform"},
    )
    divergence = [commit["metrics"]["reference_kl"] for commit in commits]
    assert divergence[0] == pytest.approx(0.0, abs=1e-9), "the reference is the base model, and so is version 0"
    assert divergence[1] > 1e-6
    assert divergence[2] > 1e-6
    rates = [commit["metrics"]["policy_learning_rate"] for commit in commits]
    assert rates == pytest.approx([7e-4, 4e-4, 1e-4])
    # The paper's value head: values of the untrained critic have a spread of their own.
    assert commits[0]["metrics"]["advantage_std"] > 0.5
