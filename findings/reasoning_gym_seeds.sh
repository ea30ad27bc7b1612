#!/usr/bin/env bash
# reasoning-gym: two neighbouring seeds give the same questions.
#
# Versions: reasoning-gym 0.1.25.
# One would expect: data sets of two seeds are drawn apart, so that seed 0 may train and seed 1 may test.
# Seen: item i of a set is made from the number seed + i alone. Seed 1 is seed 0 moved on by one place: 999 of
#   1,000 questions are the same. Accuracy on such a held-out set measures memory. Seeds must lie at least as far
#   apart as the training set is long; even then a small task repeats questions by chance.
# Output:
#   task                 seeds 0 and 1, moved by one    seeds 0 and 1000, any place
#   basic_arithmetic     999 of 1000 the same           4
#   chain_sum            999 of 1000 the same           15
#   countdown            999 of 1000 the same           0
#   leg_counting         999 of 1000 the same           0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check reasoning-gym==0.1.25
cd "$folder"
venv/bin/python - <<'PYTHON'
import reasoning_gym

SIZE = 1000
TASKS = {"basic_arithmetic": 4, "chain_sum": 15, "countdown": 0, "leg_counting": 0}  # questions that chance repeats


def questions(task, seed):
    return [item["question"] for item in reasoning_gym.create_dataset(task, size=SIZE, seed=seed)]


print(f"{'task':<21}{'seeds 0 and 1, moved by one':<31}seeds 0 and {SIZE}, any place")
for task, by_chance in TASKS.items():
    train, next_seed, far_seed = (questions(task, seed) for seed in (0, 1, SIZE))
    same = sum(mine == theirs for mine, theirs in zip(train[1:], next_seed[:-1], strict=True))
    trained = set(train)
    far = sum(question in trained for question in far_seed)
    print(f"{task:<21}{f'{same} of {SIZE} the same':<31}{far}")
    assert same == SIZE - 1
    assert far == by_chance
PYTHON
