"""Whoever writes, runs or watches a run reads the same contract, and needs pydantic alone for it (and PyYAML where YAML
is read or written): ``reasonerzero.dev/v1alpha1``.

============================  ===============================================================================
``spec``                      what a user writes, field by field, with the paper's defaults
``rules``                     what must hold between fields, on the API server (CEL) and here; immutability
``resource``                  the whole object, and ``load_run``, which judges a user's file
``status``, ``conditions``    what the operator reports and remembers
``run``                       an accepted run as the workers see it (``run.json``)
``run_defaults``              what the operator's owner decides for the pods of all runs
``requests``                  what a pod asks for where the spec does not say
``names``                     group, kind, labels, annotations, names of children
``exit_codes``                how the roles end, and what that means
``crd``, ``cel``              ``python -m rz_api.crd`` writes ``crds/reasonerzeroruns.yaml`` from all this
``problems``, ``document``    pydantic's errors as sentences; YAML text as kubectl reads it
============================  ===============================================================================

Imported by the operator and by every worker.
"""

from rz_api.conditions import Condition, Reason, find, set_condition
from rz_api.names import API_VERSION, KIND
from rz_api.resource import Metadata, ReasonerZeroRun, SpecError, load_run
from rz_api.rules import immutable_violations
from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_api.status import Phase, Progress, RunStatus

__all__ = [
    "API_VERSION",
    "KIND",
    "Condition",
    "Metadata",
    "Phase",
    "Progress",
    "Reason",
    "ReasonerZeroRun",
    "ReasonerZeroRunSpec",
    "ResolvedRun",
    "RunStatus",
    "SpecError",
    "find",
    "immutable_violations",
    "load_run",
    "set_condition",
]
