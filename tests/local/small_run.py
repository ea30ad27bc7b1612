"""The spec of a run that is small enough for a test. Used by the local tests, and by those of the documentation."""

from pathlib import Path
from typing import Any


def small_spec(base: Path, storage: Path) -> dict[str, Any]:
    """4 steps of 8 prompts x 4 samples over what ``build_base.py`` made in ``base``.

    One rollout: most of what a process costs here are its imports. How many there are changes no result, and tests of
    what happens between several compare with the run of one.
    """
    return {
        "model": {"name": str(base / "model")},
        "data": {
            "train": [{"uri": str(base / "train.jsonl")}],
            "eval": [{"name": "heldout", "uri": str(base / "heldout.jsonl")}],
            "promptTemplate": (base / "template.txt").read_text(),
            "maxPromptTokens": 128,
        },
        "storage": {"uri": str(storage)},
        "algorithm": {
            "totalSteps": 4,
            "promptsPerStep": 8,
            "samplesPerPrompt": 4,
            "policy": {"learningRate": 1e-3, "warmupSteps": 0},
            "critic": {"learningRate": 1e-3, "warmupSteps": 0, "miniBatches": 4},
        },
        "evaluation": {"interval": 2, "samples": 2},
        "rollout": {
            "replicas": 1,
            "groupsPerLease": 2,
            "samplesPerLease": 4,
            "leaseSeconds": 3,
            "maxModelLength": 256,
            "sampling": {"maxNewTokens": 48, "stop": ["</answer>"]},
        },
        "trainer": {
            "gpusPerNode": 0,
            "dtype": "float32",
            "activationCheckpointing": False,
            "maxTokensPerMicroBatch": 512,
            "checkpoint": {"interval": 2},
        },
        "reward": {"workers": 1},
        "failurePolicy": {"backoffSeconds": 0.2, "maxBackoffSeconds": 1.0},
    }
