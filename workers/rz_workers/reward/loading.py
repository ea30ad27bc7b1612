"""Whose code a verifier is decides how it is run; where it comes from, only how it is found.

Every verifier that a prompt table can name (``rz_api.verifiers``), as a function. Called in the fork server alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import ModuleType

from rz_api.verifiers import REASONING_GYM_URI, OwnPlace, own_verifier
from rz_workers.reward.interface import OwnVerifier
from rz_workers.reward.verifiers import load_verifier
from rz_workers.runtime import UserError


@dataclass(frozen=True)
class ChildSettings:
    """What the fork server is started with."""

    verifiers: Mapping[str, str | None]
    """Name -> path of its file; None where there is none."""
    cpu_seconds: float
    """Limit of one verdict."""
    memory_mib: int
    """Address space of one child."""
    shows_output: bool = False
    """Whether what verifiers print goes to stderr; else nowhere."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> ChildSettings:
        return ChildSettings(**json.loads(text))


@dataclass(frozen=True)
class Loaded:
    """A verifier, ready to be called."""

    verifier: OwnVerifier
    is_ours: bool = True
    """Whether it is part of this package: then it forks nothing, sets no timer and leaves no thread."""
    reads_responses: bool = False
    """Whether it takes its answer from the whole response itself."""


def load(name: str, code: str | None = None) -> Loaded:
    """Import what ``name`` stands for. ``code`` is where the file of an own verifier lies here.

    Raises UserError for what is not there or can't be imported.
    """
    if name.startswith(REASONING_GYM_URI):
        from rz_workers.reward.task_scorer import task_scorer

        return Loaded(task_scorer(name), is_ours=False)
    own = own_verifier(name)
    if own is None:
        return Loaded(load_verifier(name))
    function = _function(name, own, _imported(name, own, code))
    return Loaded(function, is_ours=False, reads_responses=bool(getattr(function, "reads_responses", False)))


def _imported(name: str, own: OwnPlace, code: str | None) -> ModuleType:
    try:
        if not own.is_file:
            return importlib.import_module(own.place)
        # A name by the place: two files have two.
        spec = importlib.util.spec_from_file_location(f"rz_own_{abs(hash(own.place))}", code or own.place)
        assert spec is not None, "the place ends in .py"
        assert spec.loader is not None
        # Where the module's dataclasses look for it.
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except BaseException as error:  # its code is anybody's: SystemExit, too
        if isinstance(error, ModuleNotFoundError) and error.name == own.place.partition(".")[0]:
            raise UserError(
                f"the verifier {name}: there is no module {error.name} in the reward image; add it to an image of your "
                "own (reward.image), or name a file"
            ) from None
        raise UserError(f"the verifier {name} can't be imported: {type(error).__name__}: {error}") from error


def _function(name: str, own: OwnPlace, module: ModuleType) -> OwnVerifier:
    function = getattr(module, own.function, None)
    if not callable(function):
        raise UserError(
            f"the verifier {name}: found no function {own.function} in {own.place}; one that takes an Example "
            "(rz_workers.reward.interface) is required: correct the name"
        )
    found: OwnVerifier = function
    return found
