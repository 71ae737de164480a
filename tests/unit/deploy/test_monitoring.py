"""The dashboard and the alert rules query only metrics that exist, with labels that they have."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from services.common.telemetry import metrics
from services.common.telemetry.fast_metrics import FastCounter, FastHistogram

MONITORING_DIR = Path(__file__).parents[3] / "deploy" / "monitoring"
DASHBOARD = MONITORING_DIR / "grafana" / "dashboards" / "gridcast.json"
SERVICES = ("gateway", "upload", "stream", "socket", "live")
SAMPLE_SUFFIXES = ("_total", "_bucket", "_count", "_sum", "")


def promql_expressions() -> list[str]:
    rules = yaml.safe_load((MONITORING_DIR / "alerts.yml").read_text("utf-8"))
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return asked + [target["expr"] for panel in panels for target in panel["targets"]]


def known_metrics() -> dict[str, set[str]]:
    """Every metric that the services export with its labels; Prometheus adds the last four."""
    assert metrics.HTTP_REQUESTS
    found: dict[str, set[str]] = {}
    for name, collector in REGISTRY._names_to_collectors.items():
        # The library's own metrics have the member; those of services.common.telemetry.fast_metrics have it on what they describe.
        described: Any = [collector, *getattr(collector, "describe", list)()]
        labels = {label for one in described for label in getattr(one, "_labelnames", ())}
        found[name] = {*labels, "le", "service", "instance", "job"}
    return found


def test_every_queried_metric_exists() -> None:
    names = known_metrics()
    for expression in promql_expressions():
        for name in re.findall(r"\b(gridcast_\w+|process_\w+)", expression):
            assert name in names or any(
                name == f"{known_name}{suffix}" for known_name in names for suffix in SAMPLE_SUFFIXES
            ), name


def test_every_queried_label_exists() -> None:
    names = known_metrics()
    for expression in promql_expressions():
        labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        labels |= set(re.findall(r"[{,]\s*(\w+)(?:=~|!=|=)", expression))
        asked = list(re.findall(r"\b(gridcast_\w+)", expression))
        allowed = set().union(*(names.get(name, set()) for name in asked)) | {"service", "instance", "job", "le"}
        assert labels <= allowed, f"{expression}: {labels - allowed}"


def test_every_exported_metric_is_used() -> None:
    """A metric that no panel or alert shows need not be counted."""
    asked = " ".join(promql_expressions())
    ours = [
        kind for kind in vars(metrics).values() if isinstance(kind, (MetricWrapperBase, FastCounter, FastHistogram))
    ]
    names = [family.name for metric in ours for family in metric.describe()]
    assert len(names) > 25
    missing = [name for name in names if name not in asked]
    assert missing == []


def test_prometheus_itself_accepts_the_files(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool, the judge, is not installed")
    config = (MONITORING_DIR / "prometheus.yml").read_text("utf-8").replace("/etc/prometheus/", f"{tmp_path}/")
    (tmp_path / "prometheus.yml").write_text(config, "utf-8")
    shutil.copy(MONITORING_DIR / "alerts.yml", tmp_path / "alerts.yml")
    run = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


NO_REPLICA_QUERY = 'gridcast_upstream_errors_total{upstream="stream",status="502",job="gridcast",service="gateway"}'


RELOADS = 'gridcast_live_reloads_total{{outcome="{}",job="gridcast",service="stream"}}'
PUBLISHER_FAILURES = (
    'gridcast_upload_requests_total{protocol="live-tus",outcome="failed",job="gridcast",service="live",instance="a"}'
)


def fill_in_labels(annotation: str, labels: Mapping[str, str]) -> str:
    """The text of an annotation in which Prometheus has replaced each `{{ $labels.NAME }}`."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], annotation)


@pytest.mark.parametrize(
    ("series", "firing"),
    [
        pytest.param({}, [], id="all is well"),
        pytest.param(
            {"socket": "1x12 stale"}, [("GridcastServiceAbsent", {"service": "socket"})], id="its name is gone"
        ),
        pytest.param({"socket": "1x12 stale _x3 1x60"}, [], id="it is back at once"),
        pytest.param({NO_REPLICA_QUERY: "0x12 1x60"}, [], id="one request failed"),
        pytest.param(
            {RELOADS.format("answered"): "0+10x70", RELOADS.format("late"): "0+0.1x70"}, [], id="few are late"
        ),
        pytest.param(
            {RELOADS.format("answered"): "0+10x70", RELOADS.format("late"): "0+1x70"},
            [("GridcastLiveSegmentsLate", {})],
            id="a tenth is late",
        ),
        pytest.param({PUBLISHER_FAILURES: "0+10x70"}, [("GridcastLivePublishersFail", {})], id="publishers get 5xx"),
        pytest.param(
            {NO_REPLICA_QUERY: "0x12 0+1x60"}, [("GridcastUpstreamErrors", {"upstream": "stream"})], id="all fail"
        ),
    ],
)
def test_alerts_fire_when_they_should(
    series: dict[str, str], firing: list[tuple[str, dict[str, str]]], tmp_path: Path
) -> None:
    """A sample every 10 s; evaluated after six minutes."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool, the judge, is not installed")
    given = [
        {"series": f'up{{job="gridcast",service="{name}",instance="{name}:9000"}}', "values": series.get(name, "1x60")}
        for name in SERVICES
    ]
    given += [{"series": name, "values": values} for name, values in series.items() if name not in SERVICES]
    rules = yaml.safe_load((MONITORING_DIR / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    expected = []
    for rule in rules:
        own = [labels for name, labels in firing if name == rule["alert"]]
        annotation = rule["annotations"]["summary"]
        alerts = []
        for labels in own:
            said = fill_in_labels(annotation, labels)
            more = {"job": "gridcast"} if "absent" in rule["expr"] else {}
            alerts.append({"exp_labels": {**rule["labels"], **labels, **more}, "exp_annotations": {"summary": said}})
        expected.append({"eval_time": "6m", "alertname": rule["alert"], "exp_alerts": alerts})
    test = {
        "rule_files": [str(MONITORING_DIR / "alerts.yml")],
        "evaluation_interval": "10s",
        "tests": [{"interval": "10s", "input_series": given, "alert_rule_test": expected}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test), "utf-8")
    command = ["promtool", "test", "rules", str(tmp_path / "test.yml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
