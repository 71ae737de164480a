"""The Kubernetes overlays as kubectl builds them: valid against strict schemas of several versions, safe, consistent, closed."""

import atexit
import base64
import copy
import functools
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no annotations
import pytest
import yaml

from deploy.containers import credentials
from deploy.local.processes import PROJECT_ROOT
from gateway.upstream.discovery import DNS_REFRESH_INTERVAL_SECONDS
from services.common.http.hosts import HostPolicy
from services.live.settings import LiveSettings
from services.upload.settings import UploadSettings

OVERLAYS = ("local", "production", "files")
KUBERNETES_VERSIONS = ("1.27", "1.30", "1.33", "1.35", "1.37")
SERVICES = {"upload", "stream", "socket", "live", "gateway"}
INTERNET = "world"
DNS_STALE_SECONDS = 30
"""Seconds for which CoreDNS and NodeLocal DNSCache answer from their caches."""

AUTH_SECRET = secrets.token_hex(32)

Object = dict[str, Any]


@functools.cache
def build_overlay(overlay: str) -> tuple[Object, ...]:
    """What `kubectl apply -k` would send."""
    copied = Path(tempfile.mkdtemp(prefix="gridcast-k8s-"))
    atexit.register(shutil.rmtree, copied, ignore_errors=True)
    shutil.copytree(PROJECT_ROOT / "deploy/k8s", copied, dirs_exist_ok=True)
    (copied / "overlays/local/auth_secret").write_text(f"{AUTH_SECRET}\n", "ascii")
    folder = str(copied / "overlays" / overlay)
    if kubectl := os.environ.get("KUBECTL") or shutil.which("kubectl"):
        command = [kubectl, "kustomize", folder]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build", folder]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return tuple(yaml.load_all(result.stdout, yaml.CSafeLoader))


@pytest.fixture(scope="module", autouse=True)
def _read_schemas_once() -> Iterator[None]:
    """The judge would parse all definitions of a version for every object."""
    read_once = functools.cache(kubernetes_validate.utils.schema_contents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", read_once)
        yield


def objects_of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [item for item in build_overlay(overlay) if item["kind"] in kinds]


def objects_by_name(overlay: str, kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in objects_of_kind(overlay, kind)}


def workloads(overlay: str) -> list[Object]:
    return objects_of_kind(overlay, "Deployment", "StatefulSet")


def workload_name(workload: Object) -> str:
    return str(workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"])


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid(overlay: str, version: str) -> None:
    objects = build_overlay(overlay)
    assert len(objects) > 20
    for item in objects:
        assert kubernetes_validate.validate(item, version, strict=True) == version


def test_the_schemas_are_strict() -> None:
    deployment = copy.deepcopy(objects_by_name("local", "Deployment")["upload"])
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["livenessProbe"]["periodSecond"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES_VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_one_namespace_that_enforces_restricted(overlay: str) -> None:
    (namespace,) = objects_of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    named = {item["metadata"].get("namespace") for item in build_overlay(overlay) if item["kind"] != "Namespace"}
    assert named == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlay: str) -> None:
    """Pod Security Standard "restricted", and a read-only root on top."""
    for workload in workloads(overlay):
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]
        assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_pinned_and_name_no_registry(overlay: str) -> None:
    for workload in workloads(overlay):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            path, _, tag = container["image"].partition(":")
            assert tag not in {"", "latest"}
            assert "." not in path.partition("/")[0]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_end_gracefully(overlay: str) -> None:
    for name, deployment in objects_by_name(overlay, "Deployment").items():
        if name not in SERVICES:
            continue
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        drain = next(int(entry["value"]) for entry in container["env"] if entry["name"] == "GRIDCAST_SHUTDOWN_TIMEOUT")
        command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == "sleep"
        assert int(seconds) > DNS_STALE_SECONDS + DNS_REFRESH_INTERVAL_SECONDS
        assert int(seconds) + drain + 10 <= pod["terminationGracePeriodSeconds"]
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert {spread["topologyKey"] for spread in pod["topologySpreadConstraints"]} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
        probes = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe")}
        assert set(probes.values()) == {"/livez"}
        # One unavailable service must not take the gateway down for the others.
        assert container["readinessProbe"]["httpGet"]["path"] == ("/livez" if name == "gateway" else "/readyz")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_concurrent_uploads_fit_into_the_memory_limit(overlay: str) -> None:
    """About 8 MiB each, beside the process itself."""
    (container,) = objects_by_name(overlay, "Deployment")["upload"]["spec"]["template"]["spec"]["containers"]
    assert "GRIDCAST_MAX_CONCURRENT_UPLOADS" not in {entry["name"] for entry in container["env"]}
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert UploadSettings.model_fields["max_concurrent_uploads"].default * 8 + 128 <= 1024


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_publishers_fit_into_the_memory_limit(overlay: str) -> None:
    """Each has a fragment and what is read ahead of it, 12 MiB at most, beside the process itself."""
    (container,) = objects_by_name(overlay, "Deployment")["live"]["spec"]["template"]["spec"]["containers"]
    assert "GRIDCAST_LIVE_MAX_PUBLISHERS" not in {entry["name"] for entry in container["env"]}
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert LiveSettings.model_fields["live_max_publishers"].default * 12 + 128 <= 1024


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_references_name_existing_objects(overlay: str) -> None:
    pods = {workload_name(workload): workload["spec"]["template"] for workload in workloads(overlay)}
    assert pods.keys() >= SERVICES
    services = objects_by_name(overlay, "Service")
    assert services.keys() == pods.keys()
    for name, service in services.items():
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": name}
        ports = {port["name"] for port in pods[name]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for name in ("upload", "stream", "socket", "live"):
        assert services[name]["spec"]["clusterIP"] == "None"
        gateway = pods["gateway"]["spec"]["containers"][0]["env"]
        (port,) = (port["port"] for port in services[name]["spec"]["ports"])
        assert {"name": f"GRIDCAST_{name.upper()}_URLS", "value": f"http://{name}:{port}"} in gateway
    for scaler in objects_of_kind(overlay, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in objects_by_name(overlay, "Deployment")[target["name"]]["spec"], (
            "two would decide the number"
        )
    assert objects_by_name(overlay, "PodDisruptionBudget").keys() == SERVICES
    for budget in objects_of_kind(overlay, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": budget["metadata"]["name"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_answers_to_its_own_names(overlay: str) -> None:
    """To those of Services and to pods' addresses, which the kubelet's probes have in Host; to no other."""
    namespace = objects_of_kind(overlay, "Namespace")[0]["metadata"]["name"]
    config = objects_by_name(overlay, "ConfigMap")["gridcast-hosts"]
    hosts = HostPolicy(config["data"]["allowed_hosts"])
    reference = {"configMapKeyRef": {"name": "gridcast-hosts", "key": "allowed_hosts"}}
    for name in SERVICES:
        (container,) = objects_by_name(overlay, "Deployment")[name]["spec"]["template"]["spec"]["containers"]
        assert {"name": "GRIDCAST_ALLOWED_HOSTS", "valueFrom": reference} in container["env"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert "host" not in container[probe]["httpGet"], "the kubelet puts the pod's address into Host"
        for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local"):
            assert hosts.allows(f"{name}{suffix}:8000")
    assert hosts.allows("10.244.0.7:8000")
    assert hosts.allows("localhost:8000")
    assert not hosts.allows("attacker.example")


def test_overlay_with_files_is_the_local_one_without_mongodb() -> None:
    """And with one claim, on one node, that upload, stream and live share."""
    local = {(item["kind"], item["metadata"]["name"]): item for item in build_overlay("local")}
    files = {(item["kind"], item["metadata"]["name"]): item for item in build_overlay("files")}
    policies = {("NetworkPolicy", "services-to-mongo"), ("NetworkPolicy", "mongo-from-services")}
    assert local.keys() - files.keys() == {("StatefulSet", "mongo"), ("Service", "mongo")} | policies
    assert files.keys() - local.keys() == {("PersistentVolumeClaim", "files")}
    changed = {key for key in files.keys() & local.keys() if files[key] != local[key]}
    assert changed == {
        (kind, name)
        for kind, prefix in (("Deployment", ""), ("Secret", "gridcast-"))
        for name in (f"{prefix}upload", f"{prefix}stream", f"{prefix}live")
    }
    assert files["PersistentVolumeClaim", "files"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    for name in ("upload", "stream", "live"):
        template = files["Deployment", name]["spec"]["template"]
        pod, label = template["spec"], {"gridcast/files": "true"}
        assert template["metadata"]["labels"].items() >= label.items()
        (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": label}}
        assert {"name": "files", "persistentVolumeClaim": {"claimName": "files"}} in pod["volumes"]
        (container,) = pod["containers"]
        assert {"name": "files", "mountPath": "/var/lib/gridcast"} in container["volumeMounts"]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert (env["GRIDCAST_STORE"], env["GRIDCAST_FILES_DIR"]) == ("files", "/var/lib/gridcast")
        assert not any("MONGODB" in variable for variable in env)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_overlay_is_open(overlay: str) -> None:
    """Every process has a mode, every service but the gateway a secret, and only the file that is made locally has one."""
    for name in SERVICES:
        (container,) = objects_by_name(overlay, "Deployment")[name]["spec"]["template"]["spec"]["containers"]
        values = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert values["GRIDCAST_AUTH"] == "hs256"
        assert "GRIDCAST_AUTH_ALLOW_OPEN" not in values
        assert values.get("GRIDCAST_AUTH_SECRET_FILE") == (None if name == "gateway" else "/run/gridcast/auth_secret")
    generated = [item for item in objects_of_kind(overlay, "Secret") if "auth_secret" in item["data"]]
    assert len(generated) == (4 if overlay in {"local", "files"} else 0)
    assert not (PROJECT_ROOT / "deploy/k8s/overlays/production/auth_secret").exists()


def test_production_scales_every_service() -> None:
    assert objects_by_name("production", "HorizontalPodAutoscaler").keys() == SERVICES
    assert all(item["spec"]["minReplicas"] >= 2 for item in objects_of_kind("production", "HorizontalPodAutoscaler"))
    assert [item["kind"] for item in build_overlay("production") if item["kind"] in {"Secret", "StatefulSet"}] == []
    (ingress,) = objects_of_kind("production", "Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "gateway", "port": {"name": "http"}}


@pytest.mark.parametrize("overlay", ["local", "files"])
def test_secrets_of_the_overlay_hold_what_the_pods_read(overlay: str) -> None:
    secrets = objects_by_name(overlay, "Secret")
    for name in ("upload", "stream", "socket", "live"):
        pod = objects_by_name(overlay, "Deployment")[name]["spec"]["template"]["spec"]
        (volume,) = (volume for volume in pod["volumes"] if "secret" in volume)
        (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == volume["name"])
        read = {entry["value"] for entry in pod["containers"][0]["env"] if entry["name"].endswith("_FILE")}
        assert read == {f"{mount['mountPath']}/{key}" for key in secrets[volume["secret"]["secretName"]]["data"]}


EXAMPLE = PROJECT_ROOT / "deploy/example/billing.yaml"


def example_job() -> Object:
    (job,) = yaml.safe_load_all(EXAMPLE.read_text("utf-8"))
    return dict(job)


def allowed_flows(overlay: str) -> set[tuple[str, str, int]]:
    """Allowed connections as (source, target, port), the example included: what the policies of both sides allow, DNS left out."""
    pods: dict[str, Object] = {
        workload_name(workload): workload["spec"]["template"]["metadata"]["labels"]
        for workload in (*workloads(overlay), example_job())
    }
    policies = [
        spec["spec"] for name, spec in objects_by_name(overlay, "NetworkPolicy").items() if name != "dns-egress"
    ]

    def selects(selector: Object | None, name: str) -> bool:
        if not selector:
            return True
        assert set(selector) <= {"matchLabels", "matchExpressions"}
        expressions = selector.get("matchExpressions", [])
        assert all(entry["operator"] == "In" for entry in expressions)
        return all(pods[name].get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
            pods[name].get(entry["key"]) in entry["values"] for entry in expressions
        )

    def allowed(side: str, own: str, other: str) -> set[int]:
        if own == INTERNET:
            return set(range(65536))
        direction, peers = ("Egress", "to") if side == "egress" else ("Ingress", "from")
        mine = [spec for spec in policies if selects(spec["podSelector"], own) and direction in spec["policyTypes"]]
        assert mine, f"nothing holds {own} back"
        ports: set[int] = set()
        for rule in (rule for spec in mine for rule in spec.get(side, [])):
            who = rule.get(peers)
            selectors = [peer["podSelector"] for peer in who or [] if "podSelector" in peer]
            if who is None or any(selects(selector, other) for selector in selectors if other != INTERNET):
                ports |= {port["port"] for port in rule["ports"]}
        return ports

    everyone = [*sorted(pods), INTERNET]
    return {
        (source, target, port)
        for source in everyone
        for target in everyone
        if source != target
        for port in allowed("egress", source, target) & allowed("ingress", target, source)
    }


def test_only_the_listed_flows_are_open() -> None:
    """`billing` is the example of a service of one's own: it reaches Redis alone."""
    inside = {
        (INTERNET, "gateway", 8000),
        *(("gateway", service, 8000) for service in ("upload", "stream", "socket", "live")),
    }
    redis = {(service, "redis", 6379) for service in ("upload", "stream", "socket", "live", "billing")}
    assert allowed_flows("local") == inside | redis | {
        (service, "mongo", 27017) for service in ("upload", "stream", "live")
    }
    assert allowed_flows("files") == inside | redis
    assert allowed_flows("production") == inside | {
        *((service, INTERNET, 27017) for service in ("upload", "stream", "live")),
        *(
            (service, INTERNET, port)
            for service in ("upload", "stream", "socket", "live", "billing")
            for port in (6379, 26379)
        ),
    }


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_example_is_valid_and_restricted(version: str) -> None:
    job = example_job()
    assert kubernetes_validate.validate(job, version, strict=True) == version
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (volume,) = pod["volumes"]
    assert list(objects_by_name("local", "Secret")[volume["secret"]["secretName"]]["data"]) == ["redis_url"]
    assert container["env"] == [
        {"name": "REDIS_URL_FILE", "value": f"{container['volumeMounts'][0]['mountPath']}/redis_url"}
    ]


def test_users_of_the_local_redis_have_the_rights_of_the_containers_users() -> None:
    """And each Secret names its user."""
    rights = {
        "upload": credentials.UPLOAD_ACL,
        "stream": credentials.STREAM_ACL,
        "socket": credentials.SOCKET_ACL,
        "live": credentials.LIVE_ACL,
        "publisher": credentials.PUBLISHER_ACL,
    }
    lines = objects_by_name("local", "ConfigMap")["redis-users"]["data"]["users.acl"].splitlines()
    assert lines == [
        "user default reset off",
        *(f"user {user} reset resetchannels on nopass {rule}" for user, rule in rights.items()),
    ]
    secrets = objects_by_name("local", "Secret")
    for user in rights:
        url = base64.b64decode(secrets[f"gridcast-{user}"]["data"]["redis_url"]).decode()
        assert url == f"redis://{user}:local@redis:6379/0"
    pod = objects_by_name("local", "Deployment")["redis"]["spec"]["template"]["spec"]
    assert {"name": "users", "configMap": {"name": "redis-users"}} in pod["volumes"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_dns_lookups_are_allowed_to_any_name_server(overlay: str) -> None:
    """Also in a cache on the node itself, which selectors of pods and namespaces do not match, and at OpenShift's 5353."""
    policy = objects_by_name(overlay, "NetworkPolicy")["dns-egress"]["spec"]
    assert policy["podSelector"] == {}
    (rule,) = policy["egress"]
    assert "to" not in rule
    ports = {(port["protocol"], port["port"]) for port in rule["ports"]}
    assert ports == {(protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)}


def test_metrics_are_read_from_one_namespace_alone() -> None:
    (rule,) = objects_by_name("production", "NetworkPolicy")["metrics"]["spec"]["ingress"]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert rule == {"ports": [{"protocol": "TCP", "port": 9000}], "from": [{"namespaceSelector": monitoring}]}
    for name in SERVICES:
        container = objects_by_name("production", "Deployment")[name]["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "metrics", "containerPort": 9000} in container["ports"]
