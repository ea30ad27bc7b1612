"""What Kueue's pod integration does to pods with a queue label, as far as an operator can see it.

Used by the tests of ``gang: kueue``. Ticks before the kubelet, which asks it what may be scheduled:
``kueue = KueueDouble(api, num_gpus=8); kubelet.holds = kueue.holds; players.players.insert(0, kueue)``.
"""

from __future__ import annotations

from collections import defaultdict

from kube_api import Api, Object
from players import age, finished, gone_is_fine, gpus_of, leaving, now


class KueueDouble:
    """One cluster queue of ``num_gpus``.

    - A new pod gets the finalizer and is held back (``holds``) until its group is complete and fits ``num_gpus``.
      Servers before 1.27 drop ``schedulingGates``, so the kubelet double asks here instead.
    - ``preempt`` deletes a whole group; the pods stay, with the finalizer.
    - A finalizer is let go when the group has as many live pods as it wants (a replacement exists), or when all pods of
      an unretriable group have ended. ``until_replaced``: never for the second reason.
    """

    FINALIZER = "kueue.x-k8s.io/managed"
    QUEUE = "kueue.x-k8s.io/queue-name"
    GROUP = "kueue.x-k8s.io/pod-group-name"
    TOTAL = "kueue.x-k8s.io/pod-group-total-count"
    RETRIABLE = "kueue.x-k8s.io/retriable-in-group"

    def __init__(self, api: Api, num_gpus: int = 1_000_000, *, until_replaced: bool = False) -> None:
        self.api, self.num_gpus, self.until_replaced = api, num_gpus, until_replaced
        self.admitted: set[tuple[str, str]] = set()
        """(namespace, group)."""

    def holds(self, pod: Object) -> bool:
        """Whether the pod must not be scheduled yet."""
        if self.QUEUE not in pod["metadata"].get("labels", {}):
            return False
        return self.FINALIZER not in pod["metadata"].get("finalizers", []) or self._group(pod) not in self.admitted

    def tick(self) -> int:
        groups: dict[tuple[str, str], list[Object]] = defaultdict(list)
        changes = 0
        for pod in self.api.list("Pod"):
            if self.QUEUE not in pod["metadata"].get("labels", {}):
                continue
            if self.FINALIZER not in pod["metadata"].get("finalizers", []) and not leaving(pod):
                pod = self._set_finalizers(pod, [*pod["metadata"].get("finalizers", []), self.FINALIZER])
                changes += 1
            groups[self._group(pod)].append(pod)
        self.admitted &= groups.keys()
        for pods in groups.values():
            changes += self._release(pods)
        used = sum(gpus_of(pod) for key in self.admitted for pod in groups[key] if not leaving(pod))
        for key, pods in sorted(groups.items(), key=lambda item: min(age(pod) for pod in item[1])):
            live = [pod for pod in pods if not leaving(pod)]
            need = sum(gpus_of(pod) for pod in live)
            if key not in self.admitted and live and len(live) >= self._total(pods) and used + need <= self.num_gpus:
                self.admitted.add(key)
                used += need
                changes += 1
        return changes

    def preempt(self, namespace: str, group: str) -> None:
        """Evict a group's workload: its pods are deleted, and it queues again."""
        self.admitted.discard((namespace, group))
        for pod in self.api.list("Pod", namespace):
            if self._group(pod) == (namespace, group) and not leaving(pod):
                meta = pod["metadata"]
                condition = {
                    "type": "TerminationTarget",
                    "status": "True",
                    "reason": "WorkloadEvictedDueToPreempted",
                    "message": "Preempted to accommodate a workload of higher priority",
                    "lastTransitionTime": now(),
                }
                body = {"status": {"conditions": [condition]}}
                self.api.patch("Pod", namespace, meta["name"], body, "strategic", subresource="status")
                self.api.delete("Pod", namespace, meta["name"], uid=meta["uid"])

    def _release(self, pods: list[Object]) -> int:
        live = [pod for pod in pods if not leaving(pod)]
        grouped = any(self.GROUP in pod["metadata"].get("labels", {}) for pod in pods)
        unretriable = any(pod["metadata"].get("annotations", {}).get(self.RETRIABLE) == "false" for pod in pods)
        over = not grouped or (unretriable and all(finished(pod) for pod in pods) and not self.until_replaced)
        if not over and len(live) < self._total(pods):
            return 0
        changes = 0
        for pod in pods:
            finalizers = pod["metadata"].get("finalizers", [])
            if leaving(pod) and self.FINALIZER in finalizers:
                with gone_is_fine():
                    self._set_finalizers(pod, [each for each in finalizers if each != self.FINALIZER])
                changes += 1
        return changes

    def _set_finalizers(self, pod: Object, finalizers: list[str]) -> Object:
        meta = pod["metadata"]
        return self.api.patch("Pod", meta["namespace"], meta["name"], {"metadata": {"finalizers": finalizers or None}})

    def _group(self, pod: Object) -> tuple[str, str]:
        meta = pod["metadata"]
        return meta["namespace"], meta.get("labels", {}).get(self.GROUP, f"pod/{meta['name']}")

    def _total(self, pods: list[Object]) -> int:
        return max(int(pod["metadata"].get("annotations", {}).get(self.TOTAL, 1)) for pod in pods)
