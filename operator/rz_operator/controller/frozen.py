"""An accepted run is made from what was frozen of it, whatever becomes of its object or of the operator. Values only.

``accept`` says what is to be frozen, ``frozen_store`` writes it to the run's ConfigMap before anything is started, and
reads it again after a restart of the operator, which may be another version by then (docs/decisions/0016).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rz_api.run import NewerRunError, ResolvedRun, StoredRun, UnreadableRunError, read_stored_run, write_stored_run
from rz_api.stored import Path, Unknown, without
from rz_operator.controller.json_values import no_json

MAX_FROZEN_BYTES = 512 * 1024
"""Of a run's ConfigMap. The API server's own limit (1 MiB with everything around it) would come as a refusal at an
awkward moment."""

RUN_KEY, SUBMITTED_KEY, DIGEST_KEY = "run.json", "submitted.json", "sha256"


@dataclass(frozen=True)
class Frozen:
    """What the run's ConfigMap holds."""

    run: ResolvedRun
    """``run.json``, exactly what the workers read."""
    submitted: Mapping[str, Any]
    """``submitted.json``: the user's spec from which it was made."""
    stored: StoredRun | None = None
    """What was read, where a newer operator had frozen more than this one knows; it is written back."""

    @property
    def unknown(self) -> tuple[Path, ...]:
        """Paths below the spec of fields that only a newer operator knows. None of them is judged here."""
        found = self.stored.unknown if self.stored is not None else ()
        return tuple(each.path[1:] for each in found if each.path[0] == "spec" and len(each.path) > 1)

    def again(self, run: ResolvedRun, submitted: Mapping[str, Any]) -> Frozen:
        """What is frozen of a changed run: fields of a newer operator stay, but for those of a list that changed."""
        if self.stored is None:
            return Frozen(run, submitted)
        before, after = (each.model_dump(mode="json", by_alias=True) for each in (self.run, run))
        kept = tuple(each for each in self.stored.unknown if _same_list(each, before, after))
        return Frozen(run, submitted, StoredRun(run, kept, beyond=self.stored.beyond))

    def known_part(self, spec: Any) -> Any:
        """A spec without the fields that only a newer operator knows."""
        return without(spec, self.unknown)

    def to_data(self) -> dict[str, str]:
        """As the ConfigMap's ``data``."""
        data = {
            RUN_KEY: write_stored_run(self.run, self.stored),
            SUBMITTED_KEY: json.dumps(self.submitted, sort_keys=True),
        }
        return data | {DIGEST_KEY: _digest(data)}

    def num_bytes(self) -> int:
        """Of ``to_data``, keys and values."""
        return sum(len(key.encode()) + len(text.encode()) for key, text in self.to_data().items())

    @staticmethod
    def from_data(data: Mapping[str, str]) -> Frozen:
        """The inverse of ``to_data``. Raises ValueError where somebody has changed it into something else, and
        NewerRunError for what only a newer operator can read."""
        try:
            stored = read_stored_run(data[RUN_KEY])
            submitted = json.loads(data[SUBMITTED_KEY])
        except KeyError as error:
            raise ValueError(f"found no {error}, the frozen run is required") from None
        except NewerRunError:
            raise
        # Before ValueError, of which it is a kind.
        except UnreadableRunError as error:
            raise ValueError(f"{error}; {RUN_KEY} must be a resolved run") from None
        # RecursionError: ``json.loads`` gives up at deep nesting.
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"found {error}; {SUBMITTED_KEY} must be a spec in JSON") from None
        if not isinstance(submitted, dict) or no_json(submitted, "spec") is not None:
            found = type(submitted).__name__
            raise ValueError(f"found a {found}; {SUBMITTED_KEY} must be a spec (an object) in JSON")
        return Frozen(stored.run, submitted, stored if stored.unknown else None)


def is_as_written(data: Mapping[str, str]) -> bool:
    """Whether a ConfigMap's ``data`` is as an operator wrote it. One from before there were digests has none."""
    return data.get(DIGEST_KEY, "") in ("", _digest(data))


def _digest(data: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for key in (RUN_KEY, SUBMITTED_KEY):
        text = data.get(key)
        digest.update(f"{key}\n{text}\n".encode())
    return digest.hexdigest()


def _same_list(each: Unknown, before: Any, after: Any) -> bool:
    """Whether the outermost list around a field, if there is one, is as it was: in another one the same position is
    another entry's."""
    for key in each.path[:-1]:
        if isinstance(key, int):
            return bool(before == after)
        before, after = (each.get(key) if isinstance(each, Mapping) else None for each in (before, after))
    return True
