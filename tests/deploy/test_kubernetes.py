"""The manifests against Kubernetes's own schemas, the image and the server's settings."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from benchmarks.process import ROOT
from server.app import ROUTERS
from server.settings import load_settings, variables

DIRECTORY = ROOT / "deploy/kubernetes"
VERSIONS = ("1.32", "1.37")
"""The first with all that is used (sleep before stop is on by default), and the newest."""
DEFAULT_GRACE_S = 30
"""What a pod gets that names no terminationGracePeriodSeconds."""
Manifest = dict[str, Any]


def read(name: str) -> Manifest:
    content: Manifest = yaml.safe_load((DIRECTORY / name).read_text())
    return content


KUSTOMIZATION, KSERVE = read("kustomization.yaml"), read("kserve/kustomization.yaml")
MANIFESTS = {name: read(name) for name in KUSTOMIZATION["resources"]}
CORE = sorted(MANIFESTS.keys() - {"service-monitor.yaml"})
POD: Manifest = MANIFESTS["deployment.yaml"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
RUNTIME: Manifest = read("kserve/serving-runtime.yaml")["spec"]
LABELS = {"app.kubernetes.io/name": "offramp"}


class Strict(BaseModel):
    """What is used of a custom resource; the cluster's own schemas are not at hand."""

    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    name: str


class Endpoint(Strict):
    port: str
    path: str
    interval: str


class Selector(Strict):
    matchLabels: dict[str, str]  # noqa: N815 - Kubernetes's name


class ServiceMonitorSpec(Strict):
    selector: Selector
    endpoints: list[Endpoint]


class ServiceMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: ServiceMonitorSpec


class ModelFormat(Strict):
    name: str
    version: str
    autoSelect: bool = False  # noqa: N815


class RuntimeSpec(Strict):
    annotations: dict[str, str]
    supportedModelFormats: list[ModelFormat]  # noqa: N815
    protocolVersions: list[Literal["v1", "v2", "grpc-v1", "grpc-v2"]]  # noqa: N815
    containers: list[Manifest]
    volumes: list[Manifest]


class ServingRuntime(Strict):
    apiVersion: Literal["serving.kserve.io/v1alpha1"]  # noqa: N815
    kind: Literal["ServingRuntime"]
    metadata: Metadata
    spec: RuntimeSpec


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CORE)
def test_manifest_follows_the_schema(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_a_misspelt_field_is_noticed() -> None:
    wrong = MANIFESTS["service.yaml"] | {"spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_custom_resources_have_the_fields_that_are_known() -> None:
    monitor = ServiceMonitor.model_validate(MANIFESTS["service-monitor.yaml"])
    assert monitor.spec.selector.matchLabels == LABELS
    ServingRuntime.model_validate(read("kserve/serving-runtime.yaml"))


def test_runtime_would_be_a_valid_pod() -> None:
    spec = {name: RUNTIME[name] for name in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": spec}
    kubernetes_validate.validate(pod, VERSIONS[0], strict=True)
    service = read("kserve/inference-service.yaml")["spec"]["predictor"]
    assert service["model"]["modelFormat"].items() <= RUNTIME["supportedModelFormats"][0].items()
    assert service["enableServiceLinks"] is False


@pytest.mark.parametrize("directory", [DIRECTORY, DIRECTORY / "kserve"], ids=lambda d: d.name)
def test_kustomization_names_every_file(directory: Path) -> None:
    named = yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]
    present = {path.name for path in directory.glob("*.yaml")}
    assert present - {"kustomization.yaml", "prometheus-adapter.yaml"} == set(named)


def built(directory: Path) -> dict[str, Manifest]:
    """What kubectl would apply, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    said = subprocess.run(
        ["kubectl", "kustomize", directory], check=True, capture_output=True, text=True
    )
    return {each["kind"]: each for each in yaml.safe_load_all(said.stdout)}


def test_server_as_built() -> None:
    by_kind = built(DIRECTORY)
    assert len(by_kind) == len(MANIFESTS)
    for kind in by_kind.keys() - {"ServiceMonitor"}:
        kubernetes_validate.validate(by_kind[kind], VERSIONS[0], strict=True)
    (namespace,) = {
        each["metadata"]["namespace"] for kind, each in by_kind.items() if kind != "Namespace"
    }
    assert namespace == by_kind["Namespace"]["metadata"]["name"]
    selected = by_kind["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert selected == by_kind["Service"]["metadata"]["labels"]
    (container,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"offramp:{version()}"


def test_runtime_as_built() -> None:
    by_kind = built(DIRECTORY / "kserve")
    assert by_kind.keys() == {"ServingRuntime", "InferenceService"}
    (container,) = by_kind["ServingRuntime"]["spec"]["containers"]
    assert container["image"] == f"offramp:{version()}"


def test_monitor_finds_the_service() -> None:
    (labels,) = KUSTOMIZATION["labels"]  # on everything, the Service too
    assert labels["pairs"] == LABELS
    assert MANIFESTS["service-monitor.yaml"]["spec"]["selector"] == {"matchLabels": LABELS}
    assert KUSTOMIZATION["namespace"] == MANIFESTS["namespace.yaml"]["metadata"]["name"]


def test_network_policy_lets_two_namespaces_in_and_nothing_out() -> None:
    spec = MANIFESTS["network-policy.yaml"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec
    (rule,) = spec["ingress"]
    (port,) = rule["ports"]
    assert port == {"protocol": "TCP", "port": "http"}
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert rule["from"] == [{"podSelector": {}}, {"namespaceSelector": monitoring}]


def test_guides_policy_for_traces_is_valid_and_adds_only_ways_out() -> None:
    guide = (ROOT / "docs/deploying.md").read_text()
    (policy,) = map(yaml.safe_load, re.findall(r"^```yaml\n(.+?)^```", guide, re.M | re.S))
    kubernetes_validate.validate(policy, VERSIONS[0], strict=True)
    assert policy["metadata"]["name"] != MANIFESTS["network-policy.yaml"]["metadata"]["name"]
    assert policy["spec"]["podSelector"] == {"matchLabels": LABELS}
    assert policy["spec"]["policyTypes"] == ["Egress"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 4318}


def test_guides_commands_give_rules_the_label_that_operators_select_by() -> None:
    guide = (ROOT / "docs/deploying.md").read_text()
    (commands,) = re.findall(r"^```sh\n(release=.+?^done)$", guide, re.M | re.S)
    applied = commands.replace("kubectl apply --namespace offramp --filename -", "sed '1i---'")
    said = subprocess.run(["sh", "-c", applied], cwd=ROOT, check=True, capture_output=True)
    rules = list(yaml.safe_load_all(said.stdout))
    assert [rule["kind"] for rule in rules] == ["PrometheusRule", "PrometheusRule"]
    names = ["offramp-rules", "offramp-rules-alerts"]
    labels = {"release": "kube-prometheus-stack"}
    assert [rule["metadata"] for rule in rules] == [{"name": n, "labels": labels} for n in names]
    assert all(rule["spec"]["groups"] for rule in rules)


@pytest.mark.parametrize("container", [CONTAINER, RUNTIME["containers"][0]], ids=["pod", "kserve"])
def test_environment_names_only_known_settings(container: Manifest) -> None:
    assert {variable["name"] for variable in container["env"]} <= variables().keys()
    said = {each["name"]: each for each in container["env"]}
    processes = said["OFFRAMP_PROCESSES"]["valueFrom"]
    assert processes == {"resourceFieldRef": {"resource": "requests.cpu"}}
    assert said["OFFRAMP_WORKERS"]["value"] == "1"
    assert "cpu" not in container["resources"]["limits"]


def test_no_service_adds_settings() -> None:
    assert POD["enableServiceLinks"] is False


@pytest.mark.parametrize("container", [CONTAINER, RUNTIME["containers"][0]], ids=["pod", "kserve"])
def test_container_may_do_nothing(container: Manifest) -> None:
    security = POD["securityContext"] | container["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in (
        (ROOT / "Dockerfile").read_text()
    )


def test_probes_ask_for_routes_that_exist() -> None:
    paths = {getattr(route, "path", None) for router in ROUTERS for route in router.routes}
    probes = [value for name, value in CONTAINER.items() if name.endswith("Probe")]
    assert len(probes) == 3
    assert {probe["httpGet"]["path"] for probe in probes} == {"/readyz", "/healthz"}
    assert {probe["httpGet"]["path"] for probe in probes} <= paths
    (endpoint,) = MANIFESTS["service-monitor.yaml"]["spec"]["endpoints"]
    assert endpoint["path"] in paths


def test_ports_meet() -> None:
    (port,) = CONTAINER["ports"]
    assert f"OFFRAMP_PORT={port['containerPort']}" in (ROOT / "Dockerfile").read_text()
    (service,) = MANIFESTS["service.yaml"]["spec"]["ports"]
    (endpoint,) = MANIFESTS["service-monitor.yaml"]["spec"]["endpoints"]
    (rule,) = MANIFESTS["network-policy.yaml"]["spec"]["ingress"]
    assert port["name"] == service["targetPort"] == endpoint["port"] == rule["ports"][0]["port"]


def test_everything_selects_the_pods() -> None:
    template = MANIFESTS["deployment.yaml"]["spec"]["template"]
    assert template["metadata"]["labels"] == LABELS
    assert MANIFESTS["service.yaml"]["spec"]["selector"] == LABELS
    for name, key in (
        ("deployment.yaml", "selector"),
        ("disruption-budget.yaml", "selector"),
        ("network-policy.yaml", "podSelector"),
    ):
        assert MANIFESTS[name]["spec"][key] == {"matchLabels": LABELS}


@pytest.mark.parametrize(
    ("container", "given_s"),
    [
        (CONTAINER, POD["terminationGracePeriodSeconds"]),
        (RUNTIME["containers"][0], DEFAULT_GRACE_S),
    ],
    ids=["pod", "kserve"],
)
def test_server_is_given_time_to_finish_once_it_gets_no_more_requests(
    container: Manifest, given_s: int
) -> None:
    grace_s = load_settings().timeouts.shutdown_grace_s
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep_s > 0
    assert given_s > grace_s + sleep_s
    assert "OFFRAMP_DRAIN_DELAY_S" not in {each["name"] for each in container["env"]}


def test_autoscaler_asks_for_the_metric_that_the_adapter_makes() -> None:
    spec = MANIFESTS["autoscaler.yaml"]["spec"]
    (metric,) = spec["metrics"]
    (rule,) = read("prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert spec["scaleTargetRef"]["name"] == MANIFESTS["deployment.yaml"]["metadata"]["name"]
    assert "replicas" not in MANIFESTS["deployment.yaml"]["spec"]


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


@pytest.mark.parametrize("kustomization", [KUSTOMIZATION, KSERVE], ids=["pod", "kserve"])
def test_image_is_of_this_version(kustomization: Manifest) -> None:
    (image,) = kustomization["images"]
    assert image["name"] == CONTAINER["image"] == RUNTIME["containers"][0]["image"]
    assert image["newTag"] == version()


def test_inference_service_has_the_name_of_a_bundle_and_runs_without_knative() -> None:
    metadata = read("kserve/inference-service.yaml")["metadata"]
    assert (ROOT / "models/zoo" / metadata["name"]).is_dir()
    assert metadata["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
