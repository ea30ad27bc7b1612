"""What the chart has from elsewhere is what is there, and its defaults are the operator's own."""

from __future__ import annotations

import re
from pathlib import Path

import generate
import pytest
import yaml
from helm import CHART, ROOT, Helm, one

from rz_api import crd
from rz_api.run_defaults import CaBundle, Proxy, RunDefaults, SecretReference
from rz_operator.controller.options import Options, default_images
from rz_operator.service.settings import Settings

NOT_SET = {
    "RZ_BIND_HOST": "all addresses are right in a pod",
    "RZ_WATCH_NAMESPACE": "one more of RZ_WATCH_NAMESPACES, for who installs without the chart",
    "RZ_LEDGER_STATUS_URL": "the Service of a ledger is where the operator put it",
}
"""Settings that the chart leaves alone, and why."""


def env_of(helm: Helm, values: dict[str, object]) -> dict[str, str]:
    (container,) = one(helm.template(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


@pytest.mark.parametrize("path", generate.generated(), ids=lambda path: str(path.relative_to(CHART)))
def test_is_what_would_be_generated(path: Path) -> None:
    assert path.read_text() == generate.generated()[path], f"run {generate.BY}"


def test_no_dashboard_is_left_that_is_not_in_dashboards() -> None:
    wanted = {path.name for path in generate.DASHBOARDS.glob("*.json")}
    assert {path.name for path in (CHART / "files" / "dashboards").glob("*")} == wanted


def test_the_crd_is_the_api_s_with_its_rules(helm: Helm) -> None:
    body = one(helm.template(), "CustomResourceDefinition")
    source = yaml.safe_load(crd.PATH.read_text())
    assert (body["apiVersion"], body["spec"]) == (source["apiVersion"], source["spec"])
    assert body["metadata"]["name"] == source["metadata"]["name"]
    assert body["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_server_without_cel_gets_the_crd_without_rules_and_nothing_else_is_missing(helm: Helm) -> None:
    def without_rules(part: object) -> object:
        if isinstance(part, dict):
            return {key: without_rules(value) for key, value in part.items() if key != "x-kubernetes-validations"}
        return [without_rules(each) for each in part] if isinstance(part, list) else part

    body = one(helm.template(kube_version="1.24.9"), "CustomResourceDefinition")
    assert "x-kubernetes-validations" not in str(body)
    assert body["spec"] == without_rules(yaml.safe_load(crd.PATH.read_text())["spec"])


def test_a_server_that_knows_rules_and_no_field_paths_gets_rules_without(helm: Helm) -> None:
    body = one(helm.template(kube_version="1.27.0"), "CustomResourceDefinition")
    assert str(body).count("x-kubernetes-validations") == crd.PATH.read_text().count("x-kubernetes-validations")
    assert "fieldPath" not in str(body)


def test_braces_in_a_description_are_no_template() -> None:
    source = "metadata:\n  name: x\nspec:\n  description: '{{ .Values }}'\n"
    assert """'{{ "{{" }} .Values }}'""" in generate.crd_template(source)


def test_metadata_that_the_generator_does_not_expect_is_refused() -> None:
    with pytest.raises(ValueError, match="more than a name"):
        generate.crd_template("metadata:\n  name: x\n  labels: {}\nspec:\n")


def test_the_rights_are_those_of_the_one_file(helm: Helm) -> None:
    rules = yaml.safe_load((CHART / "files" / "rbac.yaml").read_text())["rules"]
    assert one(helm.template(), "ClusterRole", "-operator-rz-system")["rules"] == rules
    assert one(helm.template({"watchNamespace": "team"}), "Role")["rules"] == rules


def test_every_setting_of_the_operator_can_be_set_and_has_its_default(helm: Helm) -> None:
    documented = set(
        re.findall(r"RZ_[A-Z_]+", (Settings.from_environment.__doc__ or "").replace("RZ_IMAGE_<ROLE>", ""))
    )
    family = re.search(r"RZ_\{([A-Z,]+)\}_SECONDS", Settings.from_environment.__doc__ or "")
    assert family is not None
    documented = {name for name in documented if not name.endswith("_")}
    documented |= {f"RZ_{name}_SECONDS" for name in family[1].split(",")}
    documented |= {f"RZ_IMAGE_{role.upper()}" for role in default_images()}
    env = env_of(helm, {})
    assert {name for name in env if name.startswith("RZ_")} == documented - NOT_SET.keys()
    assert Settings.from_environment(env) == Settings()


def test_values_reach_the_settings(helm: Helm) -> None:
    values = {
        "watchNamespace": "team",
        "watchNamespaces": ["rivals", "team"],
        "runDefaults": {
            "securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            "proxy": {"https": "http://proxy.example.com:3128"},
            "caBundle": {"configMap": "trusted"},
            "imagePullSecrets": [{"name": "registry"}],
        },
        "operator": {
            "clientQps": 0,
            "clientBurst": 7,
            "logFormat": "json",
            "concurrency": 3,
            "pollSeconds": 1.5,
            "resyncSeconds": 1000000,
            "requestSeconds": 4,
            "stuckSeconds": 5,
            "maxGangTimeoutSeconds": 600,
            "logLevel": "ERROR",
        },
        "images": {
            "registry": "r.example.com/t",
            "ledger": {"tag": "1"},
            "reward": {"tag": "2"},
            "rollout": {"repository": "w", "tag": "3"},
            "trainer": {"digest": f"sha256:{'ab' * 32}"},
        },
    }
    found = Settings.from_environment(env_of(helm, values))
    assert found == Settings(
        options=Options(
            {
                "ledger": "r.example.com/t/reasonerzero-reward:1",
                "reward": "r.example.com/t/reasonerzero-reward:2",
                "rollout": "r.example.com/t/w:3",
                "trainer": f"r.example.com/t/reasonerzero-worker@sha256:{'ab' * 32}",
            },
            run_defaults=RunDefaults(
                security_context={"fsGroupChangePolicy": "OnRootMismatch"},
                proxy=Proxy(https="http://proxy.example.com:3128"),
                ca_bundle=CaBundle(config_map="trusted"),
                image_pull_secrets=[SecretReference(name="registry")],
            ),
            poll_seconds=1.5,
            max_gang_timeout_seconds=600,
        ),
        watch_namespaces=("team", "rivals"),
        client_qps=0,
        client_burst=7,
        log_format="json",
        concurrency=3,
        resync_seconds=1_000_000,
        request_seconds=4,
        stuck_seconds=5,
        log_level="ERROR",
    )


def test_no_file_of_the_chart_names_a_machine_or_a_path_of_ours() -> None:
    for file in CHART.rglob("*"):
        if file.is_file():
            assert str(ROOT) not in file.read_text(), file
