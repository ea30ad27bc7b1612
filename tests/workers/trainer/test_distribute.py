"""A model that only the first rank holds gets to the others in shards: weights, ties and buffers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("ties", ["tied", "untied"])
def test_ranks_with_shapes_alone_score_and_learn_as_the_whole_model(tmp_path, ties):
    script = Path(__file__).with_name("distribute_gang.py")
    commands = [[sys.executable, script, str(rank), str(tmp_path / "store"), ties] for rank in range(2)]
    gang = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    for process in gang:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        result = json.loads(output.splitlines()[-1])
        assert result["scores"] < 1e-6
        assert result["gradients"] < 1e-5
        assert 0.45 < result["held"] < 0.55
