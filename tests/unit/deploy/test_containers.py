"""Dockerfile and compose files without an engine: linted, valid for both generations of Compose, and safe by default."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no annotations
import pytest
import yaml

from deploy.containers import credentials
from deploy.ingest.listeners import read_settings
from deploy.local.processes import PROJECT_ROOT
from services.common.http.hosts import HostPolicy
from services.live.settings import LiveSettings
from services.upload.settings import UploadSettings

BASE_COMPOSE, CLUSTER_COMPOSE = PROJECT_ROOT / "docker-compose.yml", PROJECT_ROOT / "deploy/compose.cluster.yml"
FILES_COMPOSE = PROJECT_ROOT / "deploy/compose.files.yml"
EXAMPLE_COMPOSE = PROJECT_ROOT / "deploy/example/compose.yml"
DOCKERFILE, EXAMPLE_DOCKERFILE = PROJECT_ROOT / "deploy/Dockerfile", PROJECT_ROOT / "deploy/example/Dockerfile"
SERVICES = {"upload", "stream", "socket", "live", "gateway"}
WITH_STORE = {"upload", "stream", "live"}
JOB_SERVICES = {"credentials", "database", "backup", "token"}
EXAMPLE_SERVICES = {"billing"}
INGEST_PORTS = ["${INGEST_BIND:-127.0.0.1}:1935:1935", "${INGEST_BIND:-127.0.0.1}:8890:8890/udp"]
MONITORING_SERVICES = {"prometheus", "grafana"}

Compose = dict[str, Any]


def read_yaml(path: Path) -> Compose:
    document: Compose = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)
    return document


def dockerfile_instructions() -> list[str]:
    """The instructions of the Dockerfile, one string each."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text("utf-8"))
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def dockerfile_stages() -> dict[str, tuple[str, list[str]]]:
    """The base and the instructions of each stage."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in dockerfile_instructions():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = (match[1], own := [])
        elif found:
            own.append(line)
    return found


@pytest.mark.parametrize("path", [DOCKERFILE, EXAMPLE_DOCKERFILE], ids=lambda path: path.parent.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed on this platform")
    result = subprocess.run([hadolint, path], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_classic_builder_accepts_the_dockerfile() -> None:
    for line in dockerfile_instructions():
        assert not re.match(r"(RUN|COPY|ADD) --(?!from=)", line), line
        assert "<<" not in line


def stages_behind(name: str) -> list[str]:
    """The names of a stage and of those that it is based on, the last of which is on an image of Python."""
    found = dockerfile_stages()
    names = [name]
    while (base := found[names[-1]][0]) in found:
        names.append(base)
    return names


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_an_image_has_the_packages_of_its_service_alone(service: str) -> None:
    found = dockerfile_stages()
    stages = stages_behind(f"build-{service}")
    instructions = [line for stage in stages for line in found[stage][1]]
    copied = [line.split()[1:] for line in instructions if line.startswith("COPY") and "--from=" not in line]
    sources = {source for *sources, _ in copied for source in sources}
    own = "gateway" if service == "gateway" else f"services/{service}"
    shared = ["build-with-store"] if service in WITH_STORE else []
    assert stages[1:] == [*shared, *([] if service == "gateway" else ["build-with-client"]), "build"]
    lock = "requirements/upload.txt" if service in WITH_STORE else f"requirements/{service}.txt"
    assert (PROJECT_ROOT / lock).read_bytes() == (PROJECT_ROOT / f"requirements/{service}.txt").read_bytes()
    served = {"clients/js/src"} if service == "gateway" else set()  # the modules that its page loads
    assert sources == {"services/__init__.py", "services/common", own, lock, *served}
    installs = [line for line in instructions if " install " in line and "/tmp/wheels/" not in line]
    assert len(installs) == 1
    assert installs[0].endswith(f"--only-binary :all: --require-hashes -r /tmp/{Path(lock).name}")


def test_the_client_is_built_from_locked_requirements() -> None:
    found = dockerfile_stages()
    built = "\n".join(found["client"][1])
    assert "COPY requirements/build.txt" in built
    assert "--only-binary :all: --require-hashes -r /tmp/build.txt" in built
    assert re.search(r"pip wheel .*--no-deps --no-build-isolation", built)
    assert found["build-with-client"][0] == "build"
    copied, installed = found["build-with-client"][1]
    assert copied.startswith("COPY --from=client /wheels ")
    assert re.search(r"pip --python \S+ install .*--no-deps --no-index", installed)


def test_copied_files_are_readable_by_any_container_user() -> None:
    """Under a umask of 077 it has its owner's permissions alone."""
    found = dockerfile_stages()
    for name, (base, instructions) in found.items():
        from_the_tree = [line for line in instructions if line.startswith("COPY") and "--from=" not in line]
        if from_the_tree and name not in {"build", "build-with-store"}:
            assert re.search(r"chmod -R a\+rX /", instructions[-1]), name
        bases = {"build", "build-with-client", "build-with-store"}
        assert not from_the_tree or base in bases or name in {"build", "client", "scripts"}, name


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_an_image_ends_small_and_unprivileged(service: str) -> None:
    found = dockerfile_stages()
    stages = stages_behind(service)
    assert stages[1:] == (["runtime-with-store", "runtime"] if service in WITH_STORE else ["runtime"])
    instructions = [line for stage in reversed(stages[:-1]) for line in found[stage][1]]
    installed = "build-with-store" if service in WITH_STORE else f"build-{service}"
    assert [line for line in instructions if line.startswith("COPY")] == [
        f"COPY --from={installed} /opt/venv /opt/venv",
        f"COPY --from=build-{service} /app /app",
    ]
    assert not any(line.startswith(("RUN", "USER")) for line in instructions)
    common = found["runtime"][1]
    assert "USER 10001:10001" in common
    assert any(re.match(r'HEALTHCHECK .* CMD \["python",', line) for line in common)
    module = "gateway" if service == "gateway" else f"services.{service}"
    assert instructions[-1] == f'CMD ["python", "-m", "{module}"]'
    labels = " ".join(line for line in [*common, *instructions] if line.startswith("LABEL"))
    for name in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize(
    "path", [BASE_COMPOSE, CLUSTER_COMPOSE, FILES_COMPOSE, EXAMPLE_COMPOSE], ids=lambda path: path.name
)
def test_compose_files_are_valid_against_the_specification(path: Path) -> None:
    text = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text("utf-8")
    jsonschema.Draft202012Validator(json.loads(text)).validate(read_yaml(path))


def test_schema_rejects_unknown_keys() -> None:
    text = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text("utf-8")
    wrong = read_yaml(BASE_COMPOSE)
    wrong["services"]["gateway"]["depends_on"]["upload"]["condition"] = "service_fine"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json.loads(text)).validate(wrong)


@pytest.mark.parametrize(
    "files",
    [
        [BASE_COMPOSE],
        [BASE_COMPOSE, CLUSTER_COMPOSE],
        [BASE_COMPOSE, EXAMPLE_COMPOSE],
        [BASE_COMPOSE, CLUSTER_COMPOSE, EXAMPLE_COMPOSE],
        [FILES_COMPOSE],
        [FILES_COMPOSE, EXAMPLE_COMPOSE],
    ],
    ids=["base", "cluster", "example", "example in a cluster", "files", "example beside files"],
)
def test_docker_compose_1_29_accepts_the_file(files: list[Path], tmp_path: Path) -> None:
    """Compose's own schema and merge of the files; no engine is needed."""
    program = shutil.which("docker-compose")
    if program is None or b"1.29" not in subprocess.check_output([program, "--version"]):
        pytest.skip("docker-compose 1.29 is not installed")
    options = [option for file in files for option in ("-f", str(file))]
    options += ["--project-directory", "."]
    accepted = yaml.safe_load(subprocess.check_output([program, *options, "config"], cwd=PROJECT_ROOT, timeout=60))
    assert accepted["services"].keys() >= SERVICES


def merged_compose(*more_files: Path) -> Compose:
    """All services of the files as a container gets them; a mapping is merged one level deep, as Compose does."""
    services = dict(read_yaml(BASE_COMPOSE)["services"])
    for path in (CLUSTER_COMPOSE, *more_files):
        for name, more in read_yaml(path)["services"].items():
            services[name] = {**services.get(name, {}), **more}
    return services


@pytest.mark.parametrize(
    "services",
    [
        read_yaml(BASE_COMPOSE)["services"],
        merged_compose(),
        merged_compose(EXAMPLE_COMPOSE),
        read_yaml(FILES_COMPOSE)["services"],
    ],
    ids=["base", "cluster", "example", "files"],
)
def test_every_container_is_locked_down(services: Compose) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"] is True, name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["logging"]["options"]["max-size"], name
        assert service["restart"] == ("no" if name in JOB_SERVICES | EXAMPLE_SERVICES else "unless-stopped"), name
        mounts = [str(volume) for volume in service.get("volumes", []) if str(volume).startswith((".", "/"))]
        assert all(re.fullmatch(r"\./deploy/monitoring/[\w./]+:/etc/[\w./]+:ro", mount) for mount in mounts), name
        assert all((PROJECT_ROOT / mount.partition(":")[0]).exists() for mount in mounts), name
        if name not in SERVICES | JOB_SERVICES | EXAMPLE_SERVICES:
            assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", service["user"]), name


def test_only_the_gateway_is_published_and_only_to_this_machine() -> None:
    """And Grafana and the ingest, where they are wanted."""
    published = {name: service["ports"] for name, service in merged_compose().items() if "ports" in service}
    assert published == {
        "gateway": ["${BIND:-127.0.0.1}:${PORT:-8000}:8000"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
        "ingest": INGEST_PORTS,
    }
    networks = read_yaml(BASE_COMPOSE)["networks"]
    assert {name for name, network in networks.items() if not (network or {}).get("internal")} == {"edge", "panels"}
    on_edge = {name for name, service in merged_compose().items() if "edge" in service.get("networks", [])}
    assert on_edge == {"gateway", "ingest"}
    assert {name for name, service in merged_compose().items() if "panels" in service.get("networks", [])} == {
        "grafana"
    }
    assert not {"data", "bus"} & set(read_yaml(BASE_COMPOSE)["services"]["gateway"]["networks"])


def test_mongodb_and_redis_are_in_two_networks_with_their_users() -> None:
    """A service of one's own reaches neither MongoDB nor the gateway nor the outside."""
    members: dict[str, set[str]] = {"data": set(), "bus": set()}
    for name, service in merged_compose(EXAMPLE_COMPOSE).items():
        for network in members.keys() & set(service.get("networks", [])):
            members[network].add(name)
    redis = {"redis", "redis-2", "sentinel-1", "sentinel-2", "sentinel-3"}
    assert members["data"] == {"mongo", "mongo-2", "mongo-3", "database", "backup", "upload", "stream", "live"}
    assert members["bus"] == redis | {"upload", "stream", "socket", "live", "billing"}
    assert list(read_yaml(EXAMPLE_COMPOSE)["services"]["billing"]["networks"]) == ["bus"]
    # docker-compose 1.29 replaces a network, so that one without this line would have a way out.
    assert all(network["internal"] for network in read_yaml(CLUSTER_COMPOSE)["networks"].values())


def test_the_images_of_the_example_are_unprivileged_and_read_what_is_sent_to_the_engine() -> None:
    text = EXAMPLE_DOCKERFILE.read_text("utf-8")
    assert "USER 10001:10001" in text
    sent = (PROJECT_ROOT / ".dockerignore").read_text("utf-8").split()
    assert {f"!{source}" for source in re.findall(r"^COPY (\S+)", text, re.MULTILINE)} <= set(sent)


def test_the_ingest_is_optional_and_reaches_the_gateway_alone() -> None:
    """Its ffmpeg parses what strangers send, so it has nothing that is worth to be taken."""
    ingest = read_yaml(BASE_COMPOSE)["services"]["ingest"]
    assert ingest["profiles"] == ["ingest"]
    assert ingest["networks"] == ["edge"]
    assert "volumes" not in ingest
    assert not any(name.startswith("GRIDCAST_") for name in ingest["environment"])
    settings = read_settings({**{name: str(value) for name, value in ingest["environment"].items()}, **GIVEN}, "")
    assert [(one.protocol, one.port) for one in settings.listeners] == [("rtmp", 1935), ("srt", 8890)]
    base, instructions = dockerfile_stages()["ingest"]
    assert base == "runtime"
    assert [line for line in instructions if line.startswith("COPY")] == ["COPY --from=scripts /opt/ingest /app"]
    assert [line for line in instructions if line.startswith("USER")][-1] == "USER 10001:10001"
    assert [*dockerfile_stages()][-1] == "ingest", "no other image waits for its packages"
    heartbeat = ingest["environment"]["INGEST_HEARTBEAT"]
    assert any(line.startswith("HEALTHCHECK") and f"'{heartbeat}'" in line for line in instructions)


def test_the_ingest_needs_the_standard_library_alone() -> None:
    """Its image has Python, ffmpeg and these files."""
    folder = PROJECT_ROOT / "deploy/ingest"
    imported = {
        name
        for path in (*folder.glob("*.py"), PROJECT_ROOT / "deploy/local/die_with_parent.py")
        for name in re.findall(r"^(?:from|import) ([\w.]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert all(name.startswith("deploy.ingest.") or name == "deploy.local" for name in foreign), foreign
    assert "from deploy.local import die_with_parent\n" in (folder / "publishing.py").read_text("utf-8")


GIVEN = {
    "INGEST_KEY": "k" * 16,
    "INGEST_TOKEN": "",
    "INGEST_FOLDER": "live",
    "INGEST_AUDIO": "copy",
    "INGEST_TS_PORT": "0",
    "INGEST_WEBM_PORT": "0",
}
"""What Compose puts in where .env says nothing, but a key."""


def test_monitoring_is_optional_and_mounts_no_data() -> None:
    services = read_yaml(BASE_COMPOSE)["services"]
    assert {
        name for name, service in services.items() if service.get("profiles") == ["monitoring"]
    } == MONITORING_SERVICES
    for name in MONITORING_SERVICES:
        assert not {"data", "edge"} & set(services[name]["networks"]), name


def test_the_variant_with_files_is_the_stack_without_mongodb() -> None:
    """Everything else is the same: services, networks and volumes."""
    base, files = read_yaml(BASE_COMPOSE), read_yaml(FILES_COMPOSE)
    assert base["services"].keys() - files["services"].keys() == {"mongo", "database"}
    assert files["services"].keys() <= base["services"].keys()
    for name, service in files["services"].items():
        same = base["services"][name]
        changed = {key for key in same.keys() | service.keys() if same.get(key) != service.get(key)}
        expected = {
            "credentials": {"environment", "volumes"},
            "backup": {"entrypoint", "environment", "volumes", "networks", "network_mode"},
            **{key: {"environment", "volumes", "networks", "depends_on"} for key in ("upload", "stream", "live")},
        }
        assert changed == expected.get(name, set()), name
    for name in ("upload", "stream", "live"):
        service, same = files["services"][name], base["services"][name]
        mongo = {"GRIDCAST_MONGODB_URI_FILE": "/run/gridcast/mongodb_uri"}
        store = {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": "/var/lib/gridcast"}
        assert service["environment"] | mongo == same["environment"] | store
        assert service["volumes"] == ["files:/var/lib/gridcast", *same["volumes"]]
        assert service["networks"] == [network for network in same["networks"] if network != "data"]
    assert files["services"]["backup"]["environment"] == {"GRIDCAST_FILES_DIR": "/var/lib/gridcast"}
    holders = {
        name
        for name, service in files["services"].items()
        for volume in service.get("volumes", [])
        if str(volume).startswith("files:")
    }
    assert holders == {"upload", "stream", "live", "backup"}
    assert base["networks"].keys() - files["networks"].keys() == {"data"}
    assert all(base["networks"][name] == network for name, network in files["networks"].items())
    assert base["volumes"].keys() - files["volumes"].keys() == {"mongo", "credentials-mongo"}
    assert files["volumes"].keys() - base["volumes"].keys() == {"files"}
    assert "mongo" not in FILES_COMPOSE.read_text("utf-8").partition("services:")[2].replace("MongoDB", "")
    runtime = "\n".join(dockerfile_stages()["runtime"][1])
    assert "install -d -o 10001 -g 10001 -m 700 /var/lib/gridcast" in runtime, "the owner of a new volume"


def test_services_scale() -> None:
    for name in SERVICES:
        assert "container_name" not in read_yaml(BASE_COMPOSE)["services"][name]
    assert not any("ports" in read_yaml(BASE_COMPOSE)["services"][name] for name in SERVICES - {"gateway"})


@pytest.mark.parametrize("public", ["localhost", "media.example", "*"])
def test_every_service_answers_to_its_own_names_and_the_public_ones(public: str) -> None:
    for name in SERVICES:
        setting = read_yaml(BASE_COMPOSE)["services"][name]["environment"]["GRIDCAST_ALLOWED_HOSTS"]
        hosts = HostPolicy(setting.replace("${GRIDCAST_ALLOWED_HOSTS:-localhost}", public))
        assert all(hosts.allows(f"{service}:8000") for service in SERVICES)
        assert hosts.allows("127.0.0.1:8000")
        assert hosts.allows(public.replace("*", "any.example"))
        assert hosts.allows("attacker.example") == (public == "*")


def test_an_image_is_built_by_one_service_that_all_its_users_wait_for() -> None:
    """Compose v2 builds all services concurrently, and two that build the same image collide."""
    services = read_yaml(BASE_COMPOSE)["services"]
    builders = [service["image"] for service in services.values() if "build" in service]
    assert len(builders) == len(set(builders))
    assert {image for image in builders if image.startswith("gridcast/")} == set(builders)
    users = {name for name, service in services.items() if service["image"] in builders and "build" not in service}
    assert users == JOB_SERVICES - {"credentials"}
    for name in users:
        assert services[name]["pull_policy"] == "never", "nobody else's image of that name"

    def waits_for(name: str) -> set[str]:
        direct = set(services[name].get("depends_on", {}))
        return direct.union(*(waits_for(other) for other in direct))

    # `backup` is run by hand, when the stack is running.
    assert "credentials" in waits_for("database")


def test_every_process_has_a_mode_and_every_service_a_secret() -> None:
    """BIND decides the public address of all, so that none is open where the gateway is published to others."""
    for name, service in merged_compose().items():
        environment = service.get("environment", {})
        if name in {"upload", "stream", "socket", "live", "gateway", "token"}:
            assert environment["GRIDCAST_PUBLIC_ADDRESS"] == "${BIND:-127.0.0.1}"
            assert environment["GRIDCAST_AUTH"] == "${GRIDCAST_AUTH:-off}"
            secret = environment.get("GRIDCAST_AUTH_SECRET_FILE")
            assert secret == (None if name == "gateway" else "/run/gridcast/auth_secret")
    files = credentials.container_files(SECRETS, {})
    for name in ("upload", "stream", "socket", "live"):
        assert files[f"/out/{name}/auth_secret"] == SECRETS[credentials.AUTH_SECRET]


def test_no_file_of_the_deployments_opens_an_instance() -> None:
    paths = [BASE_COMPOSE, PROJECT_ROOT / ".env.example", PROJECT_ROOT / "Makefile"]
    paths += [path for path in (PROJECT_ROOT / "deploy").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [path.name for path in paths if "AUTH_ALLOW_OPEN" in path.read_text("utf-8", "replace")] == []


def test_concurrent_uploads_fit_into_the_memory_limit() -> None:
    """About 8 MiB each, beside the process itself."""
    upload = read_yaml(BASE_COMPOSE)["services"]["upload"]
    assert upload["mem_limit"] == "1g"
    assert "GRIDCAST_MAX_CONCURRENT_UPLOADS" not in upload["environment"]
    assert UploadSettings.model_fields["max_concurrent_uploads"].default * 8 + 128 <= 1024


@pytest.mark.parametrize("path", [BASE_COMPOSE, FILES_COMPOSE], ids=lambda path: path.name)
def test_publishers_fit_into_the_memory_limit(path: Path) -> None:
    """Each has a fragment and what is read ahead of it, 12 MiB at most, beside the process itself."""
    live = read_yaml(path)["services"]["live"]
    assert live["mem_limit"] == "1g"
    assert "GRIDCAST_LIVE_MAX_PUBLISHERS" not in live["environment"]
    assert LiveSettings.model_fields["live_max_publishers"].default * 12 + 128 <= 1024


def test_containers_see_only_their_own_credentials() -> None:
    mounts = {
        name: {str(volume).partition(":")[0] for volume in service.get("volumes", [])}
        for name, service in merged_compose().items()
    }
    secret = {
        volume for volumes in mounts.values() for volume in volumes if volume.startswith(("vault", "credentials"))
    }
    holders = {volume: {name for name in mounts if volume in mounts[name]} - {"credentials"} for volume in secret}
    assert holders == {
        "vault": {"database"},
        "credentials-mongo": {"mongo", "mongo-2", "mongo-3"},
        "credentials-redis": {"redis", "redis-2", "sentinel-1", "sentinel-2", "sentinel-3"},
        "credentials-upload": {"upload", "backup", "token"},
        "credentials-stream": {"stream"},
        "credentials-socket": {"socket"},
        "credentials-live": {"live"},
        "credentials-publisher": set(),
    }
    example = read_yaml(EXAMPLE_COMPOSE)["services"]["billing"]
    assert example["volumes"] == ["credentials-publisher:/run/gridcast:ro"]


def test_images_name_no_registry() -> None:
    images = [service["image"] for service in merged_compose().values()]
    images += [line.partition("=")[2] for line in dockerfile_instructions() if line.startswith("ARG PYTHON=")]
    for image in images:
        assert not re.search(r"[.:]", image.partition("/")[0]) or "/" not in image, image
        assert ":" in image, f"{image} has no tag"


def test_the_example_lists_what_compose_reads() -> None:
    wanted = set(re.findall(r"\$\{([A-Z_]+)", BASE_COMPOSE.read_text("utf-8")))
    listed = set(re.findall(r"^#([A-Z_]+)=", (PROJECT_ROOT / ".env.example").read_text("utf-8"), re.MULTILINE))
    assert listed == wanted
    assert not re.search(r"^[A-Z_]*PASSWORD=.", (PROJECT_ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)


SECRETS = {
    name: f"{number:016d}"
    for number, name in enumerate((*credentials.PASSWORDS, credentials.REPLICA_SET_KEY, credentials.AUTH_SECRET))
}


def test_addresses_of_one_server_and_of_a_cluster() -> None:
    one = credentials.container_files(SECRETS, {})
    assert one["/out/upload/mongodb_uri"] == "mongodb://upload:0000000000000001@mongo:27017/gridcast"
    assert one["/out/live/mongodb_uri"] == "mongodb://live:0000000000000010@mongo:27017/gridcast"
    assert one["/out/live/redis_url"] == "redis://live:0000000000000011@redis:6379/0"
    assert one["/out/socket/redis_url"] == "redis://socket:0000000000000005@redis:6379/0"
    cluster = {"MONGO_HOSTS": "a:1,b:2", "MONGO_REPLICA_SET": "rs", "REDIS_SENTINELS": "s:1,t:2"}
    many = credentials.container_files(SECRETS, cluster)
    assert many["/out/stream/mongodb_uri"] == "mongodb://stream:0000000000000002@a:1,b:2/gridcast?replicaSet=rs"
    expected = "redis+sentinel://stream:0000000000000004@s:1,t:2/gridcast/0?sentinel_password=0000000000000008"
    assert many["/out/stream/redis_url"] == expected
    assert one["/out/publisher/redis_url"] == "redis://publisher:0000000000000009@redis:6379/0"
    assert not any("publisher" in path and "mongo" in path for path in one)


def test_without_mongodb_no_file_of_it_is_written() -> None:
    """Their volumes are not mounted, and the root file system is read-only."""
    everything = credentials.container_files(SECRETS, {})
    files = credentials.container_files(SECRETS, {"STORE": "files"})
    assert files == {path: text for path, text in everything.items() if "mongo" not in path}
    mounted = {
        str(volume).partition(":")[2] for volume in read_yaml(FILES_COMPOSE)["services"]["credentials"]["volumes"]
    }
    assert {str(Path(path).parent) for path in files} <= mounted


def test_a_redis_url_does_not_contain_the_password_with_which_sentinels_change_roles() -> None:
    files = credentials.container_files(SECRETS, {"REDIS_SENTINELS": "s:1"})
    assert not [
        path for path, text in files.items() if SECRETS["REDIS_SENTINEL_PASSWORD"] in text and "/redis/" not in path
    ]


def test_redis_gets_no_plain_text_password() -> None:
    acl = credentials.redis_acl_file(SECRETS)
    assert acl.startswith("user default reset off\n")
    assert not any(password in acl for password in SECRETS.values())


def test_mongodb_password_stays_in_the_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, out = job_volumes(tmp_path, monkeypatch)
    known, wanted = vault / "mongo_root_password", vault / "mongo_root_password.wanted"
    monkeypatch.setenv("MONGO_ROOT_PASSWORD", "the-first-of-all-passwords")
    assert credentials.main() == 0
    assert (known.read_text(), wanted.exists()) == ("the-first-of-all-passwords", False)
    monkeypatch.setenv("MONGO_ROOT_PASSWORD", "the-second-password")
    assert credentials.main() == 0
    assert (known.read_text(), wanted.read_text()) == ("the-first-of-all-passwords", "the-second-password")
    assert (out / "mongo/root_password").read_text() == "the-first-of-all-passwords", "what new data are made with"
    monkeypatch.delenv("MONGO_ROOT_PASSWORD")
    assert credentials.main() == 0
    assert wanted.read_text() == "the-second-password"
    monkeypatch.setenv("MONGO_ROOT_PASSWORD", "the-first-of-all-passwords")
    assert credentials.main() == 0
    assert (known.read_text(), wanted.exists()) == ("the-first-of-all-passwords", False)


def job_volumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders used as the job's volumes, and nothing in its environment."""
    vault, out = folder / "vault", folder / "out"
    for path in (
        vault,
        *(out / name for name in ("mongo", "redis", "upload", "stream", "socket", "live", "publisher")),
    ):
        path.mkdir(parents=True)
    monkeypatch.setattr(credentials, "VAULT", vault)
    monkeypatch.setattr(credentials, "CONTAINERS_DIR", out)
    for name in (*credentials.PASSWORDS, credentials.REPLICA_SET_KEY):
        monkeypatch.delenv(name, raising=False)
    return vault, out


def test_passwords_are_kept_unless_new_ones_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_volumes(tmp_path, monkeypatch)

    def written() -> dict[str, str]:
        return {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}

    assert credentials.main() == 0
    first = written()
    assert len({first[f"vault/{name.lower()}"] for name in credentials.PASSWORDS}) == len(credentials.PASSWORDS)
    assert credentials.main() == 0
    assert written() == first
    monkeypatch.setenv("REDIS_SOCKET_PASSWORD", "another-password-of-mine")
    assert credentials.main() == 0
    changed = {name for name, text in written().items() if text != first[name]}
    assert changed == {"vault/redis_socket_password", "out/redis/users.acl", "out/socket/redis_url"}
    monkeypatch.setenv("REDIS_SOCKET_PASSWORD", "short")
    assert credentials.main() == 1


def test_the_documented_rights_of_a_publisher_are_those_of_the_containers() -> None:
    text = (PROJECT_ROOT / "docs/operations.md").read_text("utf-8")
    (command,) = re.findall(r"redis-cli (ACL SETUSER publisher (?:.*\\\n)*.*)\n", text)
    words = shlex.split(command.replace("\\\n", " "))
    head = "ACL SETUSER publisher reset resetchannels on >PASSWORD"
    assert words == f"{head} {credentials.PUBLISHER_ACL}".split()
