"""services.common.auth.jwks_cache and authenticator: an endpoint that is gone, answers garbage, redirects, rotates under load."""

import asyncio
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest

from services.common.auth.authenticator import MAX_REMEMBERED_TOKENS, Authenticator
from services.common.auth.identity import Identity
from services.common.auth.jwks_cache import FORCED_INTERVAL_SECONDS, FRESH_SECONDS, KEPT_SECONDS, JwksCache
from services.common.auth.jwks_fetcher import MAX_BODY_BYTES, JwksFetcher
from services.common.auth.tokens import TokenPolicy, verify_token
from services.common.errors import InvalidToken, ServiceUnavailable
from tests.support.tokens import claims
from tests.unit.common.auth.test_tokens import PRIVATE, public_jwk

pytestmark = pytest.mark.anyio


class Endpoint:
    """An identity provider whose key set changes; `fetches` counts, `clock` is moved by the test."""

    def __init__(self) -> None:
        self.body: bytes | Exception = b""
        self.fetches = 0
        self.now = 1000.0
        self.cache = JwksCache(self.fetch, lambda: self.now)
        self.authenticator = Authenticator(
            lambda token, now: verify_token(token, self.cache, TokenPolicy("gridcast"), now),
            Identity(),
            self.cache.fetch_for_unknown_key,
        )
        self.cache.on_change = self.authenticator.forget_verified

    def publish(self, *names: str) -> None:
        self.body = json.dumps({"keys": [public_jwk(name) for name in names]}).encode()

    async def fetch(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


def token(name: str = "rsa", kid: str | None = None) -> str:
    algorithm = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}[name]
    return jwt.encode(claims(), PRIVATE[name], algorithm, {"kid": kid or name})


@pytest.fixture
def endpoint() -> Endpoint:
    made = Endpoint()
    made.publish("rsa")
    return made


async def test_the_first_token_fetches_the_set(endpoint: Endpoint) -> None:
    with pytest.raises(ServiceUnavailable):
        await endpoint.cache.check_health()
    assert (await endpoint.authenticator.authenticate_or_fetch(token())).subject == "alice"
    await endpoint.cache.check_health()
    assert endpoint.fetches == 1
    assert endpoint.authenticator.authenticate(None).is_anonymous


async def test_without_a_set_the_answer_is_503_and_not_401(endpoint: Endpoint) -> None:
    endpoint.body = OSError("away")
    with pytest.raises(ServiceUnavailable):
        await endpoint.authenticator.authenticate_or_fetch(token())


FAULTS: dict[str, bytes | Exception] = {
    "away": OSError("away"),
    "silent": TimeoutError(),
    "garbage": b"<html>",
    "empty": b'{"keys":[]}',
    "symmetric": b'{"keys":[{"kty":"oct","k":"AAAA","kid":"rsa"}]}',
    "a fault of our own": ZeroDivisionError(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_an_endpoint_that_fails_for_an_hour_refuses_no_known_key(
    endpoint: Endpoint, fault: bytes | Exception
) -> None:
    await endpoint.cache._refresh()
    endpoint.body = fault
    for _ in range(60):
        endpoint.now += 60
        await endpoint.cache._refresh()
        assert (await endpoint.authenticator.authenticate_or_fetch(token())).subject == "alice"
    endpoint.now += KEPT_SECONDS
    endpoint.authenticator.forget_verified()
    with pytest.raises(ServiceUnavailable):
        endpoint.authenticator.authenticate(token())


async def test_a_removed_key_is_refused_although_in_use(endpoint: Endpoint) -> None:
    used = token()
    await endpoint.authenticator.authenticate_or_fetch(used)
    endpoint.publish("ec")
    assert endpoint.authenticator.authenticate(used).subject == "alice"
    await endpoint.cache._refresh()
    with pytest.raises(InvalidToken):
        await endpoint.authenticator.authenticate_or_fetch(used)
    assert (await endpoint.authenticator.authenticate_or_fetch(token("ec"))).subject == "alice"


async def test_a_new_key_is_found_at_once_and_random_kids_fetch_seldom(endpoint: Endpoint) -> None:
    await endpoint.authenticator.authenticate_or_fetch(token())
    endpoint.publish("rsa", "ec")
    endpoint.now += FORCED_INTERVAL_SECONDS
    assert (await endpoint.authenticator.authenticate_or_fetch(token("ec"))).subject == "alice"
    began = endpoint.fetches
    for _ in range(60):
        endpoint.now += 1
        for number in range(10):
            with pytest.raises(InvalidToken):
                await endpoint.authenticator.authenticate_or_fetch(token("ed", f"random-{number}"))
    assert endpoint.fetches - began <= 3


async def test_concurrent_tokens_share_one_fetch(endpoint: Endpoint) -> None:
    good = token()
    found = await asyncio.gather(*(endpoint.authenticator.authenticate_or_fetch(good) for _ in range(100)))
    assert {identity.subject for identity in found} == {"alice"}
    assert endpoint.fetches == 1


async def test_an_equal_set_forgets_no_verified_token(endpoint: Endpoint) -> None:
    await endpoint.authenticator.authenticate_or_fetch(token())
    await endpoint.cache._refresh()
    assert len(endpoint.authenticator._verified) == 1


async def test_the_loop_fetches_before_the_set_is_old(endpoint: Endpoint) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()

    async def record(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 6:
            enough.set()
            await asyncio.Event().wait()
        endpoint.body = OSError("away") if len(pauses) > 3 else endpoint.body
        await asyncio.sleep(0)

    endpoint.cache._sleep = record
    endpoint.cache.start()
    async with asyncio.timeout(5):
        await enough.wait()
    await endpoint.cache.aclose()
    waits = [pause for pause in pauses if pause]
    assert all(pause <= FRESH_SECONDS / 2 for pause in waits)
    assert waits[-1] <= FORCED_INTERVAL_SECONDS


async def test_remembered_tokens_are_bounded_and_end() -> None:
    now = time.time()
    verified: list[str] = []

    def verify(text: str, moment: float) -> Identity:
        verified.append(text)
        return Identity("alice", expires_at=moment + 60)

    moment = [now]
    authenticator = Authenticator(verify, Identity(), clock=lambda: moment[0])
    for number in range(MAX_REMEMBERED_TOKENS + 5):
        authenticator.authenticate(str(number))
    assert len(authenticator._verified) == MAX_REMEMBERED_TOKENS
    authenticator.authenticate("9999")
    assert verified.count("9999") == 1
    authenticator.authenticate("0")
    assert verified.count("0") == 2
    moment[0] += 71
    with pytest.raises(InvalidToken):
        authenticator.authenticate("9999")
    assert not any("9999" in str(key) for key in authenticator._verified)


async def test_revocations_are_asked_each_time() -> None:
    asked: list[Identity] = []
    authenticator = Authenticator(
        lambda _token, now: Identity("alice", expires_at=now + 60), Identity(), check_revoked=asked.append
    )
    for _ in range(3):
        authenticator.authenticate("one")
    assert len(asked) == 3


class Server:
    """An HTTP server whose answer a test chooses."""

    def __init__(self, respond: Callable[[BaseHTTPRequestHandler], Any]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                respond(self)

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"

    def __enter__(self) -> str:
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self.url

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], Any]:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


async def test_the_fetcher_returns_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Server(answer(200, b"{}")) as url:
        assert await JwksFetcher(url)() == b"{}"


@pytest.mark.parametrize(
    ("respond", "fault"),
    [
        (answer(302, location="http://127.0.0.1:1/"), "answered with 302"),
        (answer(500), "answered with 500"),
        (answer(404), "answered with 404"),
        (answer(200, b"x" * (MAX_BODY_BYTES + 1)), "more than 262144 bytes"),
    ],
)
async def test_other_answers_are_faults(respond: Callable[[BaseHTTPRequestHandler], Any], fault: str) -> None:
    with Server(respond) as url, pytest.raises(ValueError, match=fault):
        await JwksFetcher(url)()


async def test_an_endpoint_that_is_away() -> None:
    with pytest.raises(ValueError, match="could not be reached"):
        await JwksFetcher("http://127.0.0.1:1/keys")()
