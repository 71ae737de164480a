"""The settings of webhooks: read from variables and files, refused with one line that names the fault and no secret."""

import json
import os
from pathlib import Path

import pytest

from services.common.settings import load_settings
from services.common.webhooks.hook_settings import MAX_SECRET_FILE_BYTES
from services.common.webhooks.signing import make_secret
from services.upload.settings import UploadSettings

URL = "https://a.example/"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRIDCAST_")]:
        monkeypatch.delenv(name)


def test_without_settings_there_are_none() -> None:
    settings = load_settings(UploadSettings)
    assert (settings.webhook_endpoints(), settings.hook_endpoint()) == (None, None)


def test_endpoints_and_hook_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = make_secret(), make_secret()
    (tmp_path / "secret").write_text(f"{new}\n{old}\n", "ascii")
    secret_file = os.fspath(tmp_path / "secret")
    (tmp_path / "list").write_text(json.dumps([{"id": "a", "url": URL, "secret_file": secret_file}]), "utf-8")
    monkeypatch.setenv("GRIDCAST_WEBHOOKS_FILE", os.fspath(tmp_path / "list"))
    monkeypatch.setenv("GRIDCAST_UPLOAD_HOOK", json.dumps({"url": URL, "secret": old}))
    settings = load_settings(UploadSettings)
    [endpoint] = settings.webhook_endpoints() or ()
    assert (endpoint.id, endpoint.secrets) == ("a", (new, old))
    hook = settings.hook_endpoint()
    assert hook is not None
    assert (hook.url, hook.secrets) == (URL, (old,))
    assert new not in repr(settings)
    assert old not in repr(settings)


def test_the_empty_list_turns_webhooks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDCAST_WEBHOOKS", "[]")
    assert load_settings(UploadSettings).webhook_endpoints() == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOKS", "{"),
        ("WEBHOOKS", "[1]"),
        ("WEBHOOKS", json.dumps([{"id": "a", "url": URL, "secret": "whsec_TOPSECRET"}])),
        ("WEBHOOKS", json.dumps([{"id": "a", "url": URL, "secret_file": "/nowhere/TOPSECRET"}])),
        ("WEBHOOKS", json.dumps([{"id": "a", "url": URL, "secret_file": "TOP\0SECRET"}])),
        ("UPLOAD_HOOK", "TOPSECRET"),
        ("UPLOAD_HOOK", json.dumps({"url": URL, "secret": "whsec_TOPSECRET"})),
        ("UPLOAD_HOOK", json.dumps({"url": URL, "id": "TOPSECRET"})),
        ("UPLOAD_HOOK", json.dumps({"url": "ftp://TOPSECRET/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})),
    ],
)
def test_faults_stop_the_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GRIDCAST_{name}", value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(UploadSettings)
    assert str(stopped.value).startswith(f"gridcast: GRIDCAST_{name}: ")
    assert "TOPSECRET" not in str(stopped.value)


def test_a_file_that_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its beginning is read, and none of it is shown."""
    path = tmp_path / "large"
    for content in (b"x" * 10 * MAX_SECRET_FILE_BYTES, b"\xff\xfe", b""):
        path.write_bytes(content)
        endpoint = {"id": "a", "url": URL, "secret_file": os.fspath(path)}
        monkeypatch.setenv("GRIDCAST_WEBHOOKS", json.dumps([endpoint]))
        with pytest.raises(SystemExit) as stopped:
            load_settings(UploadSettings)
        assert len(str(stopped.value)) < 200
