"""services.common.auth.modes and the settings of it: an open instance is never reached from elsewhere by accident."""

import os

import pytest
from pydantic import ValidationError

from gateway.settings import GatewaySettings
from services.common.auth.modes import is_loopback
from services.common.settings import AuthSettings, Settings
from services.live.settings import LiveSettings
from services.socket.settings import SocketSettings
from services.stream.settings import StreamSettings
from services.upload.settings import UploadSettings
from tests.support.processes import run_module

SECRET = "f3a1c9d07b52e84661d0aa97c4be8f1320957e6bd1c48fa2"
ALL_SETTINGS: tuple[type[Settings], ...] = (
    GatewaySettings,
    UploadSettings,
    StreamSettings,
    SocketSettings,
    LiveSettings,
)
LOOPBACK = ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST", " 127.0.0.1 ", "::ffff:127.0.0.1")
NOT_LOOPBACK = (
    "0.0.0.0",
    "::",
    "[::]",
    "192.168.0.7",
    "",
    "example.net",
    "localhost.example.net",
    "127.0.0.1.example.net",
    "127.1",
    "::ffff:10.0.0.1",
    "[127.0.0.1",
)


@pytest.mark.parametrize("address", LOOPBACK)
def test_addresses_of_this_machine(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", NOT_LOOPBACK)
def test_addresses_that_others_reach(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize("settings_class", ALL_SETTINGS)
def test_no_process_is_open_to_others_by_accident(settings_class: type[Settings]) -> None:
    for arguments in (
        {"host": "0.0.0.0"},
        {"public_address": "0.0.0.0"},
        {"host": "127.0.0.1", "public_address": "::"},
    ):
        with pytest.raises(ValidationError, match="set GRIDCAST_AUTH=hs256 and GRIDCAST_AUTH_SECRET"):
            settings_class(**arguments)  # type: ignore[arg-type]
    assert settings_class().auth == "off"
    assert settings_class(host="0.0.0.0", public_address="127.0.0.1").auth == "off"
    assert settings_class(public_address="0.0.0.0", auth_allow_open=True).auth == "off"


@pytest.mark.parametrize("module", ["gateway", "services.upload", "services.stream", "services.socket"])
def test_a_process_exits_with_the_sentence_that_says_what_to_set(module: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")}
    run = run_module(module, env={**inherited, "GRIDCAST_PUBLIC_ADDRESS": "0.0.0.0"})
    assert run.returncode == 1
    assert run.stderr.startswith(
        "gridcast: authentication is off, but clients reach this instance at 0.0.0.0: set GRIDCAST_AUTH="
    )
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"auth": "hs256"}, "GRIDCAST_AUTH=hs256 needs GRIDCAST_AUTH_SECRET"),
        ({"auth": "hs256", "auth_secret": "short"}, "GRIDCAST_AUTH_SECRET: secret 1 has 5 bytes"),
        (
            {"auth": "jwks", "auth_jwks_url": "https://idp.example/keys"},
            "GRIDCAST_AUTH=jwks needs GRIDCAST_AUTH_SECRET",
        ),
        ({"auth": "jwks", "auth_secret": SECRET}, "needs GRIDCAST_AUTH_JWKS_URL"),
        ({"auth": "jwks", "auth_secret": SECRET, "auth_jwks_url": "http://idp.example/keys"}, "must be https"),
        ({"auth": "jwks", "auth_secret": SECRET, "auth_jwks_url": "https://me:pw@idp.example"}, "is not an https URL"),
        ({"auth": "jwks", "auth_secret": SECRET, "auth_jwks_url": "file:///etc/passwd"}, "is not an https URL"),
        ({"auth": "jwks", "auth_secret": SECRET, "auth_jwks_url": "https://[::1"}, "is not an https URL"),
        ({"auth": "hs256", "auth_secret": SECRET, "auth_anonymous_scope": "read " * 65}, "more than 64 words"),
    ],
)
def test_a_mode_without_what_it_needs_is_refused(arguments: dict[str, str], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault) as caught:
        AuthSettings(**arguments)  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["https://idp.example/keys", "http://127.0.0.1:9/keys", "http://localhost/keys"])
def test_key_sets_over_https_or_of_this_machine(url: str) -> None:
    settings = AuthSettings(auth="jwks", auth_secret=SECRET, auth_jwks_url=url)
    assert settings.auth_jwks_url == url
    assert SECRET not in repr(settings)


def test_a_key_set_over_http_by_an_explicit_setting() -> None:
    AuthSettings(
        auth="jwks",
        auth_secret=SECRET,
        auth_jwks_url="http://idp.internal/keys",
        auth_jwks_allow_http=True,
    )
