#!/usr/bin/env bash
# Math-Verify takes small numbers for equal, however much they differ.
#
# Versions: math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14.0.
# One would expect: numbers that differ by a factor are different answers, be they small or large. The charge of an
#   electron (1.6e-19) is not its mass (9.1e-31), and 2 to the power of -60 not of -61.
# Seen: what counts is the difference, not its share of the number. Powers and fractions are equal when they differ by
#   less than about 5e-17; numbers in plain decimals are rounded to six places first, so that all below half a millionth
#   are equal. Only an exact 0 stays apart, so that a test against 0 finds nothing. Large numbers are kept
#   apart. No warning. The option `float_rounding` moves the one limit, `numeric_precision` the other.
# Output:
#   1.6 \times 10^{-19}    9.1 \times 10^{-31}    equal
#   6.6 \times 10^{-34}    -1.4 \times 10^{-23}   equal
#   2^{-60}                2^{-61}                equal
#   \frac{1}{10^{18}}      \frac{3}{10^{18}}      equal
#   0.0000001              0.0000004              equal
#   1.6 \times 10^{-19}    0                      different
#   1 \times 10^{-7}       4 \times 10^{-7}       different
#   0.000001               0.000002               different
#   1.6 \times 10^{19}     1.7 \times 10^{19}     different
#   1.6 \times 10^{-19}    9.1 \times 10^{-31}    different, with numeric_precision=40
#   0.0000001              0.0000004              different, with float_rounding=40
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import math_verify


def compare(reference, answer, **options):
    """The verdict, the same in both directions."""
    first, second = (math_verify.parse(f"$\\boxed{{{text}}}$") for text in (reference, answer))
    assert first and second
    there, back = math_verify.verify(first, second, **options), math_verify.verify(second, first, **options)
    assert there == back
    return "equal" if there else "different"


cases = [
    (r"1.6 \times 10^{-19}", r"9.1 \times 10^{-31}", {}, "equal"),
    (r"6.6 \times 10^{-34}", r"-1.4 \times 10^{-23}", {}, "equal"),
    (r"2^{-60}", r"2^{-61}", {}, "equal"),
    (r"\frac{1}{10^{18}}", r"\frac{3}{10^{18}}", {}, "equal"),
    (r"0.0000001", r"0.0000004", {}, "equal"),
    (r"1.6 \times 10^{-19}", r"0", {}, "different"),
    (r"1 \times 10^{-7}", r"4 \times 10^{-7}", {}, "different"),
    (r"0.000001", r"0.000002", {}, "different"),
    (r"1.6 \times 10^{19}", r"1.7 \times 10^{19}", {}, "different"),
    (r"1.6 \times 10^{-19}", r"9.1 \times 10^{-31}", {"numeric_precision": 40}, "different"),
    (r"0.0000001", r"0.0000004", {"float_rounding": 40}, "different"),
]
for reference, answer, options, expected in cases:
    found = compare(reference, answer, **options)
    note = "".join(f", with {name}={value}" for name, value in options.items())
    print(f"{reference:<23}{answer:<23}{found}{note}")
    assert found == expected
PYTHON
