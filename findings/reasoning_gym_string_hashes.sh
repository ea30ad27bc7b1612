#!/usr/bin/env bash
# reasoning-gym: under one seed, a restarted process makes other questions.
#
# Versions: reasoning-gym 0.1.25, Python 3.11.
# One would expect: the seed of a data set fixes its items, so that a run that starts again after a lost machine goes on
#   with the same questions.
# Seen: the items of some tasks depend on how Python hashes texts, which is another way in every process unless
#   PYTHONHASHSEED is set. Within one process all looks right: the same set made twice is equal. The questions of
#   isomorphic_strings, ransom_note and polynomial_multiplication change, of word_ladder some answers. Most tasks keep
#   their items. With PYTHONHASHSEED fixed all items stay; it must be set before Python starts.
# Output:
#   task, seed 0               items of 20 that two processes share
#   isomorphic_strings         0
#   ransom_note                0
#   polynomial_multiplication  0
#   word_ladder                13
#   chain_sum                  20
#   first of ransom_note: Magazine: xwflueyqsdihlxpeizmq, then Magazine: ydreszpfubxjeyazxvgf
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check reasoning-gym==0.1.25
cd "$folder"
cat > items.py <<'PYTHON'
import json
import sys

import reasoning_gym


def make(task):
    return [(item["question"], item["answer"]) for item in reasoning_gym.create_dataset(task, size=20, seed=0)]


tasks = sys.argv[1:]
items = {task: make(task) for task in tasks}
assert items == {task: make(task) for task in tasks}, "one process makes two sets of one seed"
json.dump(items, sys.stdout)
PYTHON
tasks=(isomorphic_strings ransom_note polynomial_multiplication word_ladder chain_sum)
for process in 1 2 2b; do
  PYTHONHASHSEED=${process%b} venv/bin/python items.py "${tasks[@]}" > "$process.json"
done
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

first, second, again = (json.loads(Path(f"{process}.json").read_text()) for process in ("1", "2", "2b"))
assert second == again, "PYTHONHASHSEED alone does not fix the items"
print(f"{'task, seed 0':<27}items of 20 that two processes share")
for task in first:
    same = sum(mine == theirs for mine, theirs in zip(first[task], second[task], strict=True))
    print(f"{task:<27}{same}")
    assert (same == 20) == (task == "chain_sum")
magazines = [items["ransom_note"][0][0].splitlines()[-1] for items in (first, second)]
print(f"first of ransom_note: {magazines[0]}, then {magazines[1]}")
assert magazines[0] != magazines[1]
ladders = zip(first["word_ladder"], second["word_ladder"], strict=True)
assert all(mine[0] == theirs[0] for mine, theirs in ladders), "word_ladder changes its questions"
PYTHON
