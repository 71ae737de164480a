"""The mode jwks in a running service: not ready without a key set, ready with one, and it goes on when the provider is away."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import jwt

from tests.support.databases import ServerProcess, storage_env
from tests.support.migrated_databases import prepare_store
from tests.support.processes import run_service
from tests.support.tokens import SECRET, bearer, claims, token
from tests.support.waiting import eventually
from tests.unit.common.auth.test_jwks_cache import Server, answer
from tests.unit.common.auth.test_tokens import PRIVATE, public_jwk


def test_a_service_and_its_identity_provider(
    tmp_path: Path, mongod: ServerProcess, redis_server: ServerProcess
) -> None:
    keys = json.dumps({"keys": [public_jwk("rsa"), public_jwk("ed")]}).encode()
    answers = [answer(503)]

    def respond(handler: BaseHTTPRequestHandler) -> None:
        answers[-1](handler)

    provider = Server(respond)
    with provider as url:
        settings = {
            "GRIDCAST_AUTH": "jwks",
            "GRIDCAST_AUTH_SECRET": SECRET,
            "GRIDCAST_AUTH_JWKS_URL": url,
            "GRIDCAST_AUTH_ISSUER": "https://idp.example",
            "GRIDCAST_AUTH_DEFAULT_SCOPE": "read:u/{sub}/*",
        }
        env = storage_env(mongod, redis_server.url, "auth_jwks", **settings)
        prepare_store(env)
        with run_service("services.stream", tmp_path, env, ready=False) as stream:
            good = bearer(jwt.encode(claims(iss="https://idp.example"), PRIVATE["rsa"], "RS256", {"kid": "rsa"}))

            def status(path: str, headers: dict[str, str]) -> int:
                return httpx.get(f"{stream.url}{path}", headers=headers).status_code

            def checks() -> dict[str, str]:
                try:
                    found: dict[str, str] = httpx.get(f"{stream.url}/readyz").json()["checks"]
                except httpx.HTTPError:
                    return {}
                return found

            eventually(lambda: "could not be fetched" in checks().get("jwks", ""), 30)
            assert status("/file?folder=u/alice", good) == 503
            answers.append(answer(200, keys))
            eventually(lambda: status("/file?folder=u/alice", good) == 200, 10)
            assert checks()["jwks"] == "ok"
            assert status("/file?folder=u/bob", good) == 403
            # Our own secret signs no tokens here.
            assert status("/file", bearer(token("alice", "read", iss="https://idp.example"))) == 401, (
                "our own secret signs no tokens here"
            )
            other = jwt.encode(claims(iss="https://idp.example"), PRIVATE["ec"], "ES256", {"kid": "ec"})
            assert status("/file", bearer(other)) == 401
            edwards = jwt.encode(claims(iss="https://idp.example", scope="read"), PRIVATE["ed"], "EdDSA", {"kid": "ed"})
            assert status("/file", bearer(edwards)) == 200
            answers.append(answer(302, location="http://127.0.0.1:1/"))
            assert status("/file?folder=u/alice", good) == 200
            assert status("/file", bearer(other)) == 401
            assert status("/file?folder=u/alice", good) == 200
            assert "503" in stream.log
            assert url not in stream.log
