"""Each process with a malformed connection string or setting: one line on stderr names the variable, and no part of a secret."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.processes import PROJECT_ROOT
from tests.support.processes import run_module
from tests.support.secret_leaks import DIGITS, MALFORMED_MONGODB_URIS, MALFORMED_REDIS_URLS, SECRET, find_leaks

REDIS, MONGODB = "GRIDCAST_REDIS_URL", "GRIDCAST_MONGODB_URI"


def run(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a module that must end by itself."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")}
    return run_module(module, *arguments, env={**env, "GRIDCAST_PORT": "1", **variables})


@pytest.mark.parametrize(
    ("module", "variable", "value"),
    [
        ("services.upload", MONGODB, MALFORMED_MONGODB_URIS["slash after digits"]),
        ("services.upload", REDIS, MALFORMED_REDIS_URLS["slash after digits"]),
        ("services.stream", MONGODB, MALFORMED_MONGODB_URIS["database"]),
        ("services.stream", REDIS, MALFORMED_REDIS_URLS["hash"]),
        ("services.socket", REDIS, MALFORMED_REDIS_URLS["sentinel: slash"]),
        ("services.socket", "REDIS_URL", MALFORMED_REDIS_URLS["no at sign"]),
        ("services.upload.collect_garbage", MONGODB, MALFORMED_MONGODB_URIS["question mark"]),
        ("gateway", "GRIDCAST_UPLOAD_URLS", f"http://user:{SECRET}@host:8001"),
        ("gateway", "GRIDCAST_STREAM_URLS", f"http://host:{SECRET}"),
        ("gateway", "GRIDCAST_TRUSTED_PROXIES", f"127.0.0.1,{SECRET}"),
        ("services.stream", "GRIDCAST_LOG_LEVEL", SECRET),
        ("services.upload", "GRIDCAST_ALLOWED_MEDIA_TYPES", SECRET),
        ("services.socket", "GRIDCAST_PING_INTERVAL", SECRET),
        # The secret itself in the variable that names its file.
        ("services.socket", "GRIDCAST_REDIS_URL_FILE", f"redis://:{SECRET}@host"),
        ("services.stream", "GRIDCAST_MONGODB_URI_FILE", f"mongodb://user:{SECRET * 40}@host"),
    ],
)
def test_one_line_names_the_variable(module: str, variable: str, value: str) -> None:
    done = run(module, **{variable: value})
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gridcast: ")
    assert variable.removeprefix("GRIDCAST_").removesuffix("_FILE").lower() in line.lower()
    assert find_leaks(line) == []


def test_all_faults_are_named_at_once() -> None:
    done = run("services.stream", GRIDCAST_LOG_LEVEL="loud", GRIDCAST_SEND_TIMEOUT="0", GRIDCAST_REDIS_URL="http://x")
    (line,) = done.stderr.splitlines()
    assert all(f"{name}: " in line for name in ("GRIDCAST_LOG_LEVEL", "GRIDCAST_SEND_TIMEOUT", "GRIDCAST_REDIS_URL"))


def test_a_file_that_is_not_utf_8_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_bytes(f"redis://:{SECRET}\xff@host".encode("latin-1"))
    done = run("services.socket", GRIDCAST_REDIS_URL_FILE=str(path))
    assert done.stderr == "gridcast: GRIDCAST_REDIS_URL_FILE names a file that is not UTF-8\n"


@pytest.mark.parametrize("name", ["MONGODB_URI", "REDIS_URL", "GRIDCAST_MONGODB_URI", "GRIDCAST_REDIS_URL"])
def test_the_local_run(tmp_path: Path, name: str) -> None:
    malformed = MALFORMED_MONGODB_URIS if "MONGODB" in name else MALFORMED_REDIS_URLS
    done = run(
        "deploy.local", "--port", "28107", "--data", str(tmp_path / "data"), **{name: malformed["slash after digits"]}
    )
    assert done.returncode == 1
    assert done.stdout == "" or done.stdout.startswith("store: gridfs, because ")
    (line,) = done.stderr.splitlines()
    assert name.removeprefix("GRIDCAST_") in line
    assert find_leaks(line + done.stdout) == []


SOON = dict.fromkeys(("white space", "line end"), "/?serverSelectionTimeoutMS=100")
"""What is added to those that the driver takes: it would look for the host for half a minute."""


@pytest.mark.parametrize(
    "variables",
    [
        *({MONGODB: uri + SOON.get(name, "")} for name, uri in MALFORMED_MONGODB_URIS.items()),
        {MONGODB: f"mongodb://127.0.0.1:1/?maxPoolSize={SECRET}&serverSelectionTimeoutMS=1"},
        {f"{MONGODB}_FILE": f"mongodb://user:{SECRET}@host"},
    ],
    ids=[*MALFORMED_MONGODB_URIS.keys(), "option", "file"],
)
def test_the_backup(tmp_path: Path, variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, PROJECT_ROOT / "deploy/containers/backup.py", "dump", tmp_path / "dump"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert find_leaks(done.stdout + done.stderr) == []
    assert "Traceback" not in done.stderr


def test_leaks_are_found() -> None:
    assert find_leaks(f"user:{DIGITS}: [Errno -2] Name or service not known") != []
    assert find_leaks(f"...{SECRET[4:8].lower()}...") != []
    assert find_leaks("user:****@host") == []
