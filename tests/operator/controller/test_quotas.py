"""Which refusals are a quota's."""

from __future__ import annotations

import pytest

from rz_operator.controller.quotas import is_quota

WORDS = {
    'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: 0, limited: 4': True,
    'pods "x" is forbidden: failed quota: team: must specify limits.cpu for: main; limits.memory for: main': True,
    'pods "x" is forbidden: failed quota: team: must specify limits.memory,requests.cpu': True,
    'admission webhook "w" denied the request: no trainers today': False,
}


@pytest.mark.parametrize(("message", "found"), WORDS.items())
def test_a_quotas_refusal_is_told_from_others(message: str, found: bool) -> None:
    assert is_quota(message) is found
