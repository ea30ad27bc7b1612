from typing import Any

import pytest
from operator_builders import run

from rz_operator.errors import UserError
from rz_operator.local.devices import visible_devices
from rz_operator.plan import plan


def devices(gpus: int, **sections: Any) -> dict[Any, str]:
    return dict(visible_devices(plan(run(**sections)), tuple(str(number) for number in range(gpus))))


def test_without_gpus_nobody_sees_one() -> None:
    assert set(devices(4).values()) == {""}


def test_separate_rollouts_get_the_gpus_after_the_trainers() -> None:
    seen = devices(4, trainer={"gpusPerNode": 2}, rollout={"replicas": 2})
    assert [seen["trainer", 0], seen["trainer", 1], seen["rollout", 0], seen["rollout", 1]] == ["0,1", "0,1", "2", "3"]


def test_colocated_rollouts_share_the_trainers() -> None:
    seen = devices(1, trainer={"gpusPerNode": 1}, rollout={"placement": "colocated"})
    assert (seen["trainer", 0], seen["rollout", 0], seen["ledger", 0]) == ("0", "0", "")


def test_too_few_gpus_are_the_users_error_with_the_field_to_change() -> None:
    with pytest.raises(UserError) as error:
        devices(0, trainer={"gpusPerNode": 8})
    assert "found 0 GPUs on this machine, 9 are required: trainer.nodes 1 x trainer.gpusPerNode 8" in str(error.value)
    assert "Set trainer.gpusPerNode: 0 and rollout.engine: transformers to use the CPU" in str(error.value)
