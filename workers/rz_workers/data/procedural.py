"""A task whose scorer can be won without its answer is refused when the run starts.

Items of reasoning-gym's procedural tasks, and their own scores. ``datasets`` reads the items and asks ``check_scorer``;
``rz_workers.reward.task_scorer`` scores with ``score``, in verifier children.

The library (0.1.25) has traps. Each is met by a rule here, not by a list of tasks that would grow old:

- some of its own answers are ``None``: refused, as any record without a reference answer is;
- ``game_of_life_halting`` gives 1 to any text: refused, because a text that answers nothing must score less than 1;
- ``arc_agi`` and ``rearc`` compare with tuples, which JSON makes lists: an item travels in a form that keeps them, and
  its own answer must score 1 after the journey;
- ``spell_backward`` and ``letter_jumble`` count the letters in their places, and so give 1 to the right word with
  anything behind it: these two are exact (``EXACT``);
- sums such as ten times 1/10 end beside 1: scores are rounded to nine places;
- some raise at text that they can't read (``prime_factorization``): that is the score 0.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

from rz_api.verifiers import REASONING_GYM_URI
from rz_workers.runtime import UserError

FORM = f"{REASONING_GYM_URI}TASK?size=N&seed=S"
EXACT = frozenset({"spell_backward", "letter_jumble"})
"""Tasks in which nothing but the answer itself, in whatever case, is right."""
NO_ANSWER = "there is no answer here"
CHECKED_ITEMS = 16
_TUPLE, _PAIRS = "()", "{}"
"""Keys under which JSON holds a tuple, and a mapping whose keys are no texts."""


def dataset_of(uri: str) -> tuple[Any, int]:
    """The task that a URI names, and how many items are wanted of it; the query holds size, seed and the task's own
    options (JSON values). Raises UserError."""
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise UserError(
            f"{uri}: the package reasoning-gym is required and not installed here: pip install "
            "'reasonerzero[reasoning-gym]' (in a clone: make setup)"
        ) from error

    task, options = _options(uri)
    try:
        return reasoning_gym.create_dataset(task, **options), options["size"]
    except Exception as error:
        raise UserError(
            f"{uri}: reasoning-gym does not make this task ({error}); check the task's name and its options"
        ) from error


def _options(uri: str) -> tuple[str, dict[str, Any]]:
    """The task and its options, with seed and size. Raises UserError."""
    if not uri.startswith(REASONING_GYM_URI):
        raise UserError(f"{uri}: format reasoning-gym requires a uri of the form {FORM}")
    parts = urllib.parse.urlsplit(uri)
    options = {name: _option(value) for name, value in urllib.parse.parse_qsl(parts.query)}
    size, seed = options.get("size"), options.setdefault("seed", 0)
    # Not isinstance: in Python true and false are whole numbers.
    if type(size) is not int or type(seed) is not int or size < 1:
        raise UserError(
            f"{uri}: found size {size!r} and seed {seed!r}; a uri of the form {FORM} is required, both whole numbers"
        )
    return parts.netloc, options


def check_seeds(train: Iterable[str], evaluation: Iterable[str]) -> None:
    """``train``, ``evaluation``: URIs. Raises UserError where a problem to evaluate on is also trained on: item i is
    made from seed + i alone, so that neighbouring seeds give the same items (findings/reasoning_gym_seeds.sh)."""
    trained = [(uri, *_numbers(uri)) for uri in train if uri.startswith(REASONING_GYM_URI)]
    for uri in evaluation:
        if not uri.startswith(REASONING_GYM_URI):
            continue
        first, end = _numbers(uri)
        of_task = [each for each in trained if task_name(each[0]) == task_name(uri)]
        for other, start, stop in of_task:
            if first < stop and start < end:
                free = max(stop for _, _, stop in of_task)
                raise UserError(
                    f"{uri}: found the items of the numbers {first} to {end - 1} (seed + place); {other} trains on "
                    f"{start} to {stop - 1}, and an evaluation requires others: set seed={free} in its uri, or more"
                )


def _numbers(uri: str) -> tuple[int, int]:
    """The first number of which an item is made, and the one after the last."""
    _, options = _options(uri)
    return options["seed"], options["seed"] + options["size"]


def make(uri: str) -> bytes:
    """The items of a task, packed, a line of JSON each. They are made in a process of its own, whose string hashes have
    a fixed seed: of some tasks they depend on the order of a set of strings.

    Raises UserError.
    """
    dataset_of(uri)  # what is wrong with the URI is said here
    made = subprocess.run(
        [sys.executable, "-P", "-c", f"from {__name__} import write_items; write_items({uri!r})"],
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if made.returncode:
        last = made.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(f"{uri}: reasoning-gym does not make its items ({last}); change the task or its options")
    return made.stdout


def write_items(uri: str) -> None:
    """The items, to standard output, which nothing else may use meanwhile; see ``make``."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        dataset, size = dataset_of(uri)
        for row in range(size):
            out.write(json.dumps(_packed(dataset[row]), ensure_ascii=False) + "\n")


def located(made: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and item, in the task's order, of what ``make`` gave."""
    return ((f"item {row}", _unpacked(json.loads(line))) for row, line in enumerate(made.decode().split("\n")[:-1]))


def score(dataset: Any, task: str, answer: str, fields: dict[str, Any]) -> float:
    """The task's own score of an answer, in [0, 1]; ``fields`` is what ``packed`` made of the item. Raises MemoryError
    only."""
    item = _unpacked(fields["item"])
    if task in EXACT:
        return float(answer.strip().lower() == str(item["answer"]).strip().lower())
    try:
        return round(float(dataset.score_answer(answer, item)), 9)
    except MemoryError:
        raise
    except Exception:  # the library raises at some texts that it can't read
        return 0.0


def packed(item: dict[str, Any]) -> dict[str, Any]:
    """The item as JSON values from which it is had again, to the type. Raises TypeError for what JSON can't hold."""
    fields = {"item": _packed(item)}
    json.dumps(fields)
    return fields


def check_scorer(uri: str, made: bytes) -> None:
    """Raises UserError for a task whose scorer does not tell its own answer from none. ``made``: its items."""
    dataset, _ = dataset_of(uri)
    task = task_name(uri)
    for place, item in itertools.islice(located(made), CHECKED_ITEMS):
        if item["answer"] is None:
            continue  # refused where it is read, as any record without an answer
        fields = json.loads(json.dumps(packed(item)))
        own, none = (score(dataset, task, answer, fields) for answer in (str(item["answer"]), NO_ANSWER))
        if own != 1 or none >= 1:
            raise UserError(
                f"{uri}, {place}: the task's scorer gives {own:g} to its own answer and {none:g} to {NO_ANSWER!r}; "
                "1 and less are required of a teacher: set verifier at this source to another, or take another task"
            )


def task_name(uri: str) -> str:
    return urllib.parse.urlsplit(uri).netloc


def _option(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _packed(value: Any) -> Any:
    if isinstance(value, tuple):
        return {_TUPLE: [_packed(each) for each in value]}
    if isinstance(value, list):
        return [_packed(each) for each in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _packed(each) for key, each in value.items()}
        return {_PAIRS: [[_packed(key), _packed(each)] for key, each in value.items()]}
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(_unpacked(each) for each in value[_TUPLE])
    if value.keys() == {_PAIRS}:
        return {_unpacked(key): _unpacked(each) for key, each in value[_PAIRS]}
    return {key: _unpacked(each) for key, each in value.items()}
