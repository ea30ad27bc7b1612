"""An accepted run is made from what was frozen of it, whatever becomes of its object or of the operator. Values only.

``accept`` says what is to be frozen, ``reconcile`` writes it to the run's ConfigMap before anything is started, and
reads it again after a restart of the operator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rz_api.run import ResolvedRun
from rz_operator.controller.json_values import no_json

MAX_FROZEN_BYTES = 512 * 1024
"""Of a run's ConfigMap. The API server's own limit (1 MiB with everything around it) would come as a refusal at an
awkward moment."""

RUN_KEY, SUBMITTED_KEY = "run.json", "submitted.json"


@dataclass(frozen=True)
class Frozen:
    """What the run's ConfigMap holds."""

    run: ResolvedRun
    """``run.json``, exactly what the workers read."""
    submitted: Mapping[str, Any]
    """``submitted.json``: the user's spec from which it was made."""

    def to_data(self) -> dict[str, str]:
        """As the ConfigMap's ``data``."""
        return {
            RUN_KEY: self.run.model_dump_json(by_alias=True, indent=2),
            SUBMITTED_KEY: json.dumps(self.submitted, sort_keys=True),
        }

    def num_bytes(self) -> int:
        """Of ``to_data``, keys and values."""
        return sum(len(key.encode()) + len(text.encode()) for key, text in self.to_data().items())

    @staticmethod
    def from_data(data: Mapping[str, str]) -> Frozen:
        """The inverse of ``to_data``. Raises ValueError where somebody has changed it into something else."""
        change = "restore it, or delete the ConfigMap and have the run frozen anew from its spec"
        try:
            run = ResolvedRun.model_validate_json(data[RUN_KEY])
            submitted = json.loads(data[SUBMITTED_KEY])
        except KeyError as error:
            raise ValueError(f"found no {error} in the run's ConfigMap, the frozen run is required: {change}") from None
        # Before ValueError, of which it is a kind.
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(key) for key in first["loc"]) or RUN_KEY
            raise ValueError(f"found {where}: {first['msg']}; {RUN_KEY} must be a resolved run: {change}") from None
        # RecursionError: ``json.loads`` gives up at deep nesting.
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"found {error}; {SUBMITTED_KEY} must be a spec in JSON: {change}") from None
        if not isinstance(submitted, dict) or no_json(submitted, "spec") is not None:
            found = type(submitted).__name__
            raise ValueError(f"found a {found}; {SUBMITTED_KEY} must be a spec (an object) in JSON: {change}")
        return Frozen(run, submitted)
