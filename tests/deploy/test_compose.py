"""docker-compose.yml: valid, pinned, locked down, and mounting what its services look for."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from benchmarks.process import ROOT
from server.settings import load_settings
from tests.deploy.rules import FILES

COMPOSE_FILE = ROOT / "docker-compose.yml"
GRAFANA = ROOT / "deploy/grafana/provisioning"


def read(path: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return content


SERVICES: dict[str, dict[str, Any]] = read("docker-compose.yml")["services"]


def mounts(service: str) -> dict[str, str]:
    """Host path by container path, for the files that a service mounts from this repository."""
    volumes = [volume.split(":") for volume in SERVICES[service].get("volumes", [])]
    for source, *_, mode in volumes:
        assert not source.startswith("./") or mode == "ro"
    return {target: source for source, target, *_ in volumes if source.startswith("./")}


def on_host(service: str, path: str) -> str:
    """Where a path that a service sees lies in this repository."""
    for target, source in mounts(service).items():
        if path == target or path.startswith(f"{target}/"):
            return source + path.removeprefix(target)
    raise AssertionError(f"{service} mounts nothing at {path}")


def test_follows_the_compose_specification() -> None:
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)]
    subprocess.run([sys.executable, "-m", *command], check=True)


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_paths_exist(name: str) -> None:
    for source in mounts(name).values():
        assert (ROOT / source).exists()


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"offramp"}))
def test_image_is_pinned_and_checked(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])
    is_watched = SERVICES[name].get("healthcheck", {}).get("test", [""])[0] == "CMD"
    assert is_watched or SERVICES[name]["profiles"] == ["load"]


def test_services_start_once_what_they_need_is_healthy() -> None:
    healthy = {"condition": "service_healthy"}
    assert SERVICES["prometheus"]["depends_on"] == {"offramp": healthy}
    assert SERVICES["grafana"]["depends_on"] == {"prometheus": healthy}
    assert SERVICES["load"]["depends_on"] == {"offramp": healthy}


def test_named_volumes_are_declared() -> None:
    named = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }
    assert named == read("docker-compose.yml")["volumes"].keys()


def test_prometheus_is_given_its_configuration_and_the_server() -> None:
    (option,) = [o for o in SERVICES["prometheus"]["command"] if o.startswith("--config.file=")]
    configuration = read(on_host("prometheus", option.partition("=")[2]))
    jobs = {job["job_name"]: job["static_configs"] for job in configuration["scrape_configs"]}
    assert jobs["offramp"] == [{"targets": ["offramp:8000"]}]
    assert {str(path.parent.relative_to(ROOT)) for path in FILES} == {"deploy/prometheus"}
    assert configuration["rule_files"] == ["rules*.yml"]
    assert SERVICES["offramp"]["ports"] == ["127.0.0.1:8000:8000"]


def test_grafana_asks_prometheus_at_its_scrape_interval() -> None:
    (source,) = read("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    scrape_interval = read("deploy/prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape_interval == "5s"


def test_grafana_finds_what_is_provisioned() -> None:
    for kind in ("datasources", "dashboards"):
        assert mounts("grafana")[f"/etc/grafana/provisioning/{kind}"] == (
            f"./{(GRAFANA / kind).relative_to(ROOT)}"
        )
    (provider,) = read("deploy/grafana/provisioning/dashboards/offramp.yml")["providers"]
    assert on_host("grafana", provider["options"]["path"]) == "./deploy/grafana/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert on_host("grafana", home) == "./deploy/grafana/dashboards/exits.json"


def test_grafana_lets_viewers_look_and_nobody_log_in() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_server_is_given_time_to_finish() -> None:
    grace_s = int(SERVICES["offramp"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > load_settings().timeouts.shutdown_grace_s
    assert SERVICES["offramp"]["init"] is True
