"""The look at this machine's memory before the models are spread."""

import pytest
import torch

from rz_api.shapes import ModelShape
from rz_workers.runtime import UserError
from rz_workers.trainer import memory

SEVEN_B = ModelShape(3584, 18_944, 28, 28, 4, 128, 152_064, tied=False, qkv_bias=True)
TINY = ModelShape(64, 128, 2, 2, 2, 32, 40, tied=True)
CPU = torch.device("cpu")


def machine(root, cgroup=None, total_kb=8_000_000):
    if cgroup is not None:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.max").write_text(f"{cgroup}\n")
    if total_kb is not None:
        (root / "proc").mkdir()
        (root / "proc/meminfo").write_text(f"MemTotal:       {total_kb} kB\nMemFree:   1 kB\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "total_kb", "expected"),
    [
        (None, 8_000_000, 8_192_000_000),
        ("max", 8_000_000, 8_192_000_000),
        ("4294967296", 8_000_000, 4_294_967_296),
        ("9223372036854771712", 8_000_000, 8_192_000_000),
        (None, None, None),
    ],
    ids=["no cgroup", "no limit", "a limit", "version 1's way to say none", "nothing to read"],
)
def test_the_least_of_the_limits_counts(tmp_path, cgroup, total_kb, expected):
    assert memory.host_limit(machine(tmp_path, cgroup, total_kb)) == expected


def test_a_model_that_is_too_large_is_refused_with_what_to_change(make_spec, monkeypatch):
    monkeypatch.setattr(memory, "host_limit", lambda: 24e9)
    with pytest.raises(UserError, match=r"would hold \d+ GB, it has 24 GB .* raise trainer\.nodes"):
        memory.check(make_spec(), SEVEN_B, CPU)


def test_more_ranks_make_it_fit(make_spec, monkeypatch):
    monkeypatch.setattr(memory, "host_limit", lambda: 24e9)
    memory.check(make_spec(trainer={"nodes": 32, "dtype": "bfloat16"}), SEVEN_B, CPU)


def test_a_small_model_passes_on_a_small_machine_and_where_nothing_is_known(make_spec, monkeypatch):
    monkeypatch.setattr(memory, "host_limit", lambda: 1.2e9)
    memory.check(make_spec(), TINY, CPU)
    monkeypatch.setattr(memory, "host_limit", lambda: None)
    memory.check(make_spec(), SEVEN_B, CPU)
