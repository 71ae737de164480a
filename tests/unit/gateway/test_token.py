"""gateway.token: what it prints is accepted by the services, and what would grant nothing is refused."""

import os
import subprocess
import time
from pathlib import Path

import jwt
import pytest

from services.common.auth.key_ring import parse_key_ring
from services.common.auth.key_sources import RingKeys
from services.common.auth.tokens import TokenPolicy, verify_token
from tests.support.processes import run_module
from tests.support.tokens import SECRET


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")}
    return run_module("gateway.token", *arguments, env={**inherited, **env})


def test_its_tokens_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"k1 {SECRET}\n", "utf-8")
    for env in ({"GRIDCAST_AUTH_SECRET": f"k1 {SECRET}"}, {"GRIDCAST_AUTH_SECRET_FILE": str(file)}):
        done = run("alice", "read:films/*", "listen push", "--life", "60", GRIDCAST_AUTH_ISSUER="me", **env)
        assert (done.returncode, done.stderr) == (0, "")
        token = done.stdout.strip()
        identity = verify_token(
            token, RingKeys(parse_key_ring(f"k1 {SECRET}")), TokenPolicy("gridcast", "me"), time.time()
        )
        assert identity.subject == "alice"
        assert identity.token_id
        assert 50 < identity.expires_at - time.time() <= 60
        assert identity.rights.may_folder("read", "films/new")
        assert identity.rights.may_everywhere("push")
        assert jwt.decode(token, SECRET, algorithms=["HS256"], audience="gridcast", issuer="me")["sub"] == "alice"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("alice", "reed"), 2, "grants nothing"),
        (("alice", "read:../x"), 2, "grants nothing"),
        (("alice",), 2, "required"),
        (("", "read"), 2, "must not be empty"),
        (("alice", "read", "--life", "0"), 2, "at least 1"),
        (("alice", "read", "--life", "100000"), 2, "at most 86400 seconds"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], code: int, text: str) -> None:
    done = run(*arguments, GRIDCAST_AUTH_SECRET=SECRET)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


@pytest.mark.parametrize(("secret", "text"), [("", "is not set"), ("short", "has 5 bytes")])
def test_a_missing_or_short_secret(secret: str, text: str) -> None:
    done = run("alice", "read", GRIDCAST_AUTH_SECRET=secret)
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr
