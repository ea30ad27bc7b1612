"""Values that a platform team might have: what is rendered from each is looked at by most tests of this folder."""

from __future__ import annotations

from typing import Any

MONITORED: dict[str, Any] = {
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "30s"},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "scrapeTimeout": "5s"},
        "prometheusRule": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "alertLabels": {"team": "reasoning"},
            "disabled": ["ReasonerZeroCreateRefused"],
            "runbookUrl": "https://wiki.example.com/reasonerzero",
        },
    },
    "dashboards": {
        "enabled": True,
        "namespace": "monitoring",
        "annotations": {"grafana_folder": "Reasoning"},
    },
}

CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "a single namespace": {"watchNamespace": "team"},
    "an installer without rights to the cluster": {
        "watchNamespace": "rz-system",
        "crd": {"install": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "given"},
    },
    "images of one's own registry": {
        "images": {
            "registry": "registry.example.com:5000/team",
            "pullPolicy": "Always",
            "operator": {"digest": f"sha256:{'0a' * 32}"},
            "rollout": {"repository": "vllm/worker", "tag": "2026.11_1"},
        },
        "imagePullSecrets": [{"name": "registry"}],
    },
    "everything that Prometheus and Grafana take": MONITORED,
    "a pod that is placed": {
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}}
                ]
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "reasonerzero"}},
            }
        ],
        "priorityClassName": "high",
        "podAnnotations": {"example.com/owner": "platform"},
        "podLabels": {"example.com/cost": "reasoning"},
        "commonLabels": {"example.com/team": "platform"},
        "resources": {"requests": {"cpu": 1, "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "terminationGracePeriodSeconds": 30,
    },
    "a platform that chooses users": {"podSecurity": {"runAsUser": None, "runAsGroup": None}},
    "settings of the operator": {
        "operator": {
            "concurrency": 16,
            "pollSeconds": 7.5,
            "logLevel": "DEBUG",
            "extraEnv": [
                {"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ],
        },
        "service": {"port": 9090, "annotations": {"prometheus.io/scrape": "true"}},
        "podDisruptionBudget": {"enabled": True},
        "serviceAccount": {"annotations": {"example.com/a": "b"}},
    },
    "narrow NetworkPolicies": {
        "watchNamespace": "team",
        "networkPolicy": {
            "operator": {
                "scrapeFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
                "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"port": 3128}]}],
            },
            "runs": {
                "scrapeFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
            },
            "workers": {"enabled": True},
        },
    },
    "workers of two namespaces, with workload identity and a bucket inside": {
        "networkPolicy": {
            "operator": {"enabled": False},
            "workers": {
                "enabled": True,
                "namespaces": ["team", "rivals"],
                "cidrs": ["203.0.113.0/24"],
                "allowMetadata": True,
                "extraEgress": [
                    {"to": [{"namespaceSelector": {"matchLabels": {"name": "minio"}}}], "ports": [{"port": 9000}]}
                ],
            },
        },
    },
    "other names, and no CRD that stays": {
        "nameOverride": "zero",
        "fullnameOverride": "orz",
        "crd": {"keep": False},
        "serviceAccount": {"name": "orz"},
        "rbac": {"aggregateToDefaultRoles": False},
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": 0},
    },
    "as a dependency of another chart": {"global": {"imageRegistry": "elsewhere"}},
}
