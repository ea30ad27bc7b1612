"""The tiny run's figures are, to the last bit, those that are checked in: whoever moves them says so in the commit."""

import json
from pathlib import Path

import pytest
from golden_run import GOLDEN, STEPS, measure, versions, why_not


@pytest.mark.local
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_the_tiny_run_has_its_golden_figures(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    renew = "`make golden` writes the new figures; say in the commit what moved them"
    assert golden["versions"] == versions(), f"they are of other versions; {renew}"
    found = measure(tmp_path)
    assert len(found) == STEPS
    for then, now in zip(golden["steps"], found, strict=True):
        assert now == then, renew
