"""A real Prometheus scrapes all five services with the shipped configuration; every metric that dashboard and rules name exists."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT
from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import StartService
from tests.support.waiting import eventually

MONITORING_DIR = PROJECT_ROOT / "deploy/monitoring"
SERVICES = {
    "gateway": "gateway",
    "upload": "services.upload",
    "stream": "services.stream",
    "socket": "services.socket",
    "live": "services.live",
}
TIMEOUT = 15
"""Seconds that a rule waits here: Prometheus takes five to discover its targets, and until then all are missing."""
PROMETHEUS = shutil.which("prometheus")

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")


@pytest.fixture
def metrics_ports(
    start_service: StartService, mongod: ServerProcess, redis_url: str, database_name: str
) -> dict[str, int]:
    """The port of each service's metrics."""
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    stores = storage_env(mongod, redis_url, database_name)
    urls: dict[str, str] = {}
    for name in ("upload", "stream", "socket", "live"):
        service = start_service(SERVICES[name], GRIDCAST_METRICS_PORT=str(ports[name]), **stores)
        urls[f"GRIDCAST_{name.upper()}_URLS"] = service.url
    gateway = start_service("gateway", GRIDCAST_METRICS_PORT=str(ports["gateway"]), **urls)
    assert httpx.get(f"{gateway.url}/file").status_code == 200
    return ports


@pytest.fixture
def prometheus(metrics_ports: dict[str, int], tmp_path: Path) -> Iterator[httpx.Client]:
    """With the shipped configuration except addresses, which no name server here resolves, and intervals of seconds."""
    config = yaml.safe_load((MONITORING_DIR / "prometheus.yml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    (lookup,) = job.pop("dns_sd_configs")
    assert set(lookup["names"]) == set(SERVICES)
    job["static_configs"] = [
        {"targets": [f"{HOST}:{port}"], "labels": {"__meta_dns_name": name}} for name, port in metrics_ports.items()
    ]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (rules,) = (MONITORING_DIR / Path(name).name for name in config["rule_files"])
    hurried = re.sub(r"for: \d+m$", f"for: {TIMEOUT}s", rules.read_text("utf-8"), flags=re.MULTILINE)
    (tmp_path / rules.name).write_text(hurried, "utf-8")
    config["rule_files"] = [str(tmp_path / rules.name)]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    (port,) = free_ports(1)
    command = [
        str(PROMETHEUS),
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address={HOST}:{port}",
        "--web.enable-lifecycle",
    ]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}/api/v1") as client:
            eventually(lambda: client.get("/status/buildinfo").status_code == 200, 30, "Prometheus answers")
            yield client
    finally:
        process.terminate()
        process.wait(30)


def query_data(client: httpx.Client, path: str, **query: str) -> Any:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_all_services_are_scraped_and_every_queried_metric_exists(prometheus: httpx.Client) -> None:
    def up() -> bool:
        found = query_data(prometheus, "/query", query='up{job="gridcast"} == 1')["result"]
        return {one["metric"]["service"] for one in found} == set(SERVICES)

    eventually(up, 30, "all four are up, each under its name")
    known = set(eventually(lambda: query_data(prometheus, "/metadata"), 10, "what the numbers mean"))
    rules = yaml.safe_load((MONITORING_DIR / "alerts.yml").read_text("utf-8"))
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    panels = json.loads((MONITORING_DIR / "grafana/dashboards/gridcast.json").read_text("utf-8"))["panels"]
    asked += [target["expr"] for panel in panels for target in panel["targets"]]
    for expression in asked:
        query_data(prometheus, "/query", query=expression)
        for name in re.findall(r"\b(?:gridcast|process)_\w+", expression):
            assert {name, re.sub(r"_(?:bucket|count|sum|total)\Z", "", name)} & known, name

    def judged() -> bool:
        groups = query_data(prometheus, "/rules")["groups"]
        return all(rule["health"] == "ok" for group in groups for rule in group["rules"]) and bool(groups)

    eventually(judged, 30, "every rule is evaluated without an error")
    over = time.monotonic() + TIMEOUT + 5
    while time.monotonic() < over:
        alerts = query_data(prometheus, "/alerts")["alerts"]
        assert [alert["labels"] for alert in alerts if alert["state"] == "firing"] == []
        time.sleep(0.5)


def test_service_without_an_address_fires_an_alert(prometheus: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yml"
    config = yaml.safe_load(path.read_text("utf-8"))
    (job,) = config["scrape_configs"]
    job["static_configs"] = [one for one in job["static_configs"] if one["labels"]["__meta_dns_name"] != "socket"]
    path.write_text(yaml.safe_dump(config), "utf-8")
    assert prometheus.post(str(prometheus.base_url).replace("/api/v1/", "/-/reload")).status_code == 200

    def missed() -> bool:
        alerts = query_data(prometheus, "/alerts")["alerts"]
        firing = {
            (alert["labels"]["alertname"], alert["labels"].get("service"))
            for alert in alerts
            if alert["state"] == "firing"
        }
        return firing == {("GridcastServiceAbsent", "socket")}

    eventually(missed, TIMEOUT + 30, "the alert says which")
