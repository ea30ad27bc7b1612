"""``bench/bars.toml`` and what reads it. The figures themselves are measured by ``make bench``."""

from __future__ import annotations

import datetime
import math
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars import BARS, hold

BENCH = BARS.parent
KNOWN: dict[str, dict[str, Any]] = tomllib.loads(BARS.read_text())
PROGRAMS = sorted(set(BENCH.glob("*.py")) - {BENCH / "bars.py"} | {BENCH / "grading" / "grade.py"})


@pytest.mark.parametrize("name", KNOWN)
def test_a_bar_is_held_by_the_program_that_it_names(name: str) -> None:
    program = BENCH / KNOWN[name]["program"]
    assert program in PROGRAMS
    assert f'"{name}"' in program.read_text(), f"{program} does not hold it"


@pytest.mark.parametrize("name", KNOWN)
def test_a_bar_has_one_bound_which_held_when_and_where_it_was_set(name: str) -> None:
    bar = KNOWN[name]
    assert len({"at_least", "at_most"} & bar.keys()) == 1
    assert hold(name, bar["measured"])
    assert isinstance(bar["on"], datetime.date)
    assert bar["where"]
    assert bar["what"]
    assert not bar.keys() - {"program", "what", "at_least", "at_most", "measured", "on", "where", "why"}


@pytest.mark.parametrize("program", [pytest.param(program, id=program.name) for program in PROGRAMS])
def test_a_program_ends_with_whether_its_bars_hold(program: Path) -> None:
    text = program.read_text()
    assert "from bars import hold" in text
    assert text.endswith("sys.exit(main())\n")
    assert set(re.findall(r'hold\("([\w-]+)"', text)) <= KNOWN.keys()


@pytest.mark.parametrize(
    ("name", "measured", "line"),
    [
        pytest.param("speed", 1.66, "speed 1.66 (bar: at least 1.5) holds", id="above what it must reach"),
        pytest.param("speed", 1.5, "speed 1.5 (bar: at least 1.5) holds", id="exactly what it must reach"),
        pytest.param("speed", 1.49, "speed 1.49 (bar: at least 1.5) MISSED", id="below what it must reach"),
        pytest.param("faults", 0, "faults 0 (bar: at most 0) holds", id="exactly what it may be"),
        pytest.param("faults", 1, "faults 1 (bar: at most 0) MISSED", id="above what it may be"),
        pytest.param("faults", math.nan, "faults nan (bar: at most 0) MISSED", id="not a number"),
    ],
)
def test_a_figure_is_held_against_its_bar(
    name: str, measured: float, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = tmp_path / "bars.toml"
    bars.write_text("[speed]\nat_least = 1.5\n[faults]\nat_most = 0\n")
    assert hold(name, measured, bars) is line.endswith("holds")
    assert capsys.readouterr().out == f"{line}\n"


def test_a_figure_without_a_bar_is_an_error(tmp_path: Path) -> None:
    bars = tmp_path / "bars.toml"
    bars.write_text("[speed]\nat_least = 1.5\n")
    with pytest.raises(ValueError, match=r"found no bar spede in .*, which has speed: write it there"):
        hold("spede", 1.0, bars)
