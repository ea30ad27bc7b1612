#!/usr/bin/env bash
# reasoning-gym: some tasks' own scorers give full marks to text that is no answer, others none to their own answers.
#
# Versions: reasoning-gym 0.1.25.
# One would expect: `score_answer` gives 1 to the item's own answer and less to any other text, because it is what a
#   reward is made of.
# Seen: `game_of_life_halting` compares `bool(text)` with `bool(answer)`, and every text is true; `spell_backward` and
#   `letter_jumble` add 1/n for each letter in its place and stop at the answer's end, so that the right word with
#   anything behind it scores what the word does; `arc_agi` and `rearc` compare with tuples, and give 0.05 to their own
#   answers once an item has been through JSON; `prime_factorization` raises at text; of five tasks some answers are None.
# Output:
#   game_of_life_halting: 'no idea' scores 1.0
#   spell_backward: the right word and 'xxx' behind it scores 1.0
#   rearc: its own answer scores 1.0, after JSON 0.05
#   prime_factorization: 'no idea' raises ValueError
#   answers that are None: boxnet graph_color propositional_logic rubiks_cube rush_hour
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check reasoning-gym==0.1.25
cd "$folder"
venv/bin/python - <<'PYTHON'
import json

import reasoning_gym


def first(task):
    dataset = reasoning_gym.create_dataset(task, size=8, seed=0)
    return dataset, dataset[0]


dataset, item = first("game_of_life_halting")
item = next(each for each in dataset if each["answer"] not in ("", None))
halting = dataset.score_answer("no idea", item)
print(f"game_of_life_halting: 'no idea' scores {halting}")

dataset, item = first("spell_backward")
longer = round(dataset.score_answer(item["answer"] + "xxx", item), 6)
print(f"spell_backward: the right word and 'xxx' behind it scores {longer}")

dataset, item = first("rearc")
before, after = (dataset.score_answer(item["answer"], each) for each in (item, json.loads(json.dumps(item))))
print(f"rearc: its own answer scores {before}, after JSON {after}")

dataset, item = first("prime_factorization")
try:
    raised = dataset.score_answer("no idea", item)
except ValueError as error:
    raised = type(error).__name__
print(f"prime_factorization: 'no idea' raises {raised}")

tasks = ["boxnet", "chain_sum", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"]
without = [task for task in tasks if any(each["answer"] is None for each in first(task)[0])]
print("answers that are None:", *without)

assert (halting, longer, before, raised) == (1.0, 1.0, 1.0, "ValueError")
assert after < 1
assert without == ["boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"]
PYTHON
