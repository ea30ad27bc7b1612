"""A run that is accepted says everything: what its spec leaves to the operator is filled in once, and frozen.

``accept`` completes the run of a new object, and of a changed one. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rz_api.names import Role
from rz_api.run import ResolvedRun
from rz_api.run_defaults import RunDefaults
from rz_operator.controller.options import default_images
from rz_operator.plan import resolve


@dataclass(frozen=True)
class Completion:
    """What the operator and its cluster bring to a run."""

    images: Mapping[Role, str] = field(default_factory=default_images)
    """Of roles that name none."""
    pods: RunDefaults | None = None
    """For the pods of runs that are accepted from now on."""
    workload_gangs: bool = True
    """Whether the server has Kubernetes' own PodGroups; without them ``gang: workload`` is ``operator``."""

    def first(self, run: ResolvedRun) -> ResolvedRun:
        """A run that is accepted now."""
        return self.again(run.model_copy(update={"pod_defaults": self.pods}))

    def again(self, run: ResolvedRun) -> ResolvedRun:
        """A run whose spec was changed: it keeps the defaults for pods that it has."""
        spec, defaults = run.spec, run.pod_defaults or RunDefaults()
        sections: dict[str, Any] = {}
        for role, image in self.images.items():
            options = getattr(spec, role)
            wanted = defaults.image(options.image or image)
            if options.image != wanted:
                sections[role] = options.model_copy(update={"image": wanted})
        if spec.scheduling.gang == "workload" and not self.workload_gangs:
            sections["scheduling"] = spec.scheduling.model_copy(update={"gang": "operator"})
        return resolve(run.model_copy(update={"spec": spec.model_copy(update=sections)}) if sections else run)
