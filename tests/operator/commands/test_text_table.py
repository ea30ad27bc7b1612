"""Tables and paragraphs: aligned, within the width where words allow it, and without a broken word."""

from __future__ import annotations

import io

import pytest

from rz_operator.commands.text_table import table, width_of, wrapped

ROWS = [("ROLE", "NODES", "COMMAND"), ("ledger", "1", "python -m rz_workers.ledger"), ("trainer", "12", "")]


@pytest.mark.parametrize(
    ("width", "want"),
    [
        pytest.param(None, ["ROLE      NODES   COMMAND", "ledger    1       python -m rz_workers.ledger",
                            "trainer   12"], id="no width: a row is a line"),
        pytest.param(45, ["ROLE      NODES   COMMAND", "ledger    1       python -m rz_workers.ledger",
                          "trainer   12"], id="exactly wide enough"),
        pytest.param(44, ["ROLE      NODES   COMMAND", "ledger    1       python -m",
                          "                  rz_workers.ledger", "trainer   12"], id="the last column goes on below"),
        pytest.param(10, ["ROLE      NODES   COMMAND", "ledger    1       python", "                  -m",
                          "                  rz_workers.ledger", "trainer   12"], id="too narrow: longer lines"),
    ],
)  # fmt: skip
def test_a_table(width: int | None, want: list[str]) -> None:
    assert table(ROWS, width) == want


def test_a_paragraph_breaks_at_blanks_and_goes_on_below_its_text() -> None:
    assert wrapped("  reason   a b c d\n  more", 13, "    ") == ["  reason   a", "    b c d", "  more"]
    assert wrapped("see /a/very/long-path/that/is-not-broken", 10) == ["see", "/a/very/long-path/that/is-not-broken"]
    assert wrapped("a b c\n\nd", None) == ["a b c", "", "d"]


def test_the_width_is_what_columns_says_and_unknown_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    assert width_of(io.StringIO()) == 123
    monkeypatch.setenv("COLUMNS", "")
    assert width_of(io.StringIO()) is None
