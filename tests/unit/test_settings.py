"""Settings come from arguments, the environment, and files, in this order; secrets are not shown."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.common.settings import MongoSettings


def test_defaults_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MONGODB_URI", "GRIDCAST_MONGODB_URI", "GRIDCAST_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert MongoSettings().mongodb_uri.get_secret_value() == "mongodb://127.0.0.1:27017"


def test_the_prefixed_name_and_the_common_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://common")
    assert MongoSettings().mongodb_uri.get_secret_value() == "mongodb://common"
    monkeypatch.setenv("GRIDCAST_MONGODB_URI", "mongodb://prefixed")
    assert MongoSettings().mongodb_uri.get_secret_value() == "mongodb://prefixed"
    assert MongoSettings(mongodb_uri="mongodb://argument").mongodb_uri.get_secret_value() == "mongodb://argument"


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MONGODB_URI", raising=False)
    secret = tmp_path / "uri"
    secret.write_text("mongodb://user:hush@host\n", "utf-8")
    monkeypatch.setenv("GRIDCAST_MONGODB_URI_FILE", str(secret))
    settings = MongoSettings()
    assert settings.mongodb_uri.get_secret_value() == "mongodb://user:hush@host"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(("name", "value"), [("PORT", "0"), ("PORT", "x"), ("LOG_LEVEL", "loud"), ("DRAIN", "-1")])
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GRIDCAST_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        MongoSettings()
