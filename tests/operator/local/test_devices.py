import os
from pathlib import Path
from typing import Any

import pytest
from operator_builders import run

from rz_operator.errors import UserError
from rz_operator.local.devices import gpus_for, visible_devices
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


ON_GPUS = plan(run(trainer={"gpusPerNode": 1}))
GPUS_OF = {
    "two GPUs": ("echo 'GPU 0: NVIDIA H200'; echo 'GPU 1: NVIDIA H200'", ("0", "1")),
    "a driver that fails": ("echo 'NVIDIA-SMI has failed'; exit 9", ()),
}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an ``nvidia-smi`` lies that is found first."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "nvidia-smi"


def says(driver: Path, script: str) -> None:
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(0o755)


@pytest.mark.parametrize(("script", "found"), GPUS_OF.values(), ids=GPUS_OF)
def test_the_driver_is_asked_for_the_gpus(driver: Path, script: str, found: tuple[str, ...]) -> None:
    says(driver, script)
    assert gpus_for(ON_GPUS) == found


def test_a_driver_that_hangs_is_the_users_error_where_gpus_are_asked_for(driver: Path) -> None:
    says(driver, "exec tail -f /dev/null")
    with pytest.raises(UserError, match=r"does not list the GPUs within 0\.1 s, which trainer\.gpusPerNode 1 requires"):
        gpus_for(ON_GPUS, timeout_seconds=0.1)


def test_a_plan_without_gpus_asks_no_driver(driver: Path) -> None:
    says(driver, f"touch {driver.with_name('asked')}")
    assert gpus_for(plan(run())) == ()
    assert not driver.with_name("asked").exists()
