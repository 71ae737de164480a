"""services.common.settings: values from arguments, the environment and files, in this order; secrets are not shown."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from gateway.settings import GatewaySettings
from services.common.settings import MongoSettings
from services.upload.settings import UploadSettings


def test_defaults_need_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MONGODB_URI", "GRIDCAST_MONGODB_URI", "GRIDCAST_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert MongoSettings().mongodb_uri.get_secret_value() == "mongodb://127.0.0.1:27017"


def test_prefixed_and_common_variable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://common")
    assert MongoSettings().mongodb_uri.get_secret_value() == "mongodb://common"
    monkeypatch.setenv("GRIDCAST_MONGODB_URI", "mongodb://prefixed")
    assert MongoSettings().mongodb_uri.get_secret_value() == "mongodb://prefixed"
    assert MongoSettings(mongodb_uri="mongodb://argument").mongodb_uri.get_secret_value() == "mongodb://argument"


def test_secret_setting_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MONGODB_URI", raising=False)
    secret = tmp_path / "uri"
    secret.write_text("mongodb://user:hush@host\n", "utf-8")
    monkeypatch.setenv("GRIDCAST_MONGODB_URI_FILE", str(secret))
    settings = MongoSettings()
    assert settings.mongodb_uri.get_secret_value() == "mongodb://user:hush@host"
    assert "hush" not in repr(settings)


def test_list_setting_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the format of the environment: JSON here, commas for the gateway's addresses."""
    types, addresses = tmp_path / "types", tmp_path / "addresses"
    monkeypatch.setenv("GRIDCAST_ALLOWED_MEDIA_TYPES_FILE", str(types))
    monkeypatch.setenv("GRIDCAST_UPLOAD_URLS_FILE", str(addresses))
    types.write_text('["video/*", "audio/ogg"]\n', "utf-8")
    addresses.write_text("http://one:8001,http://two:8001\n", "utf-8")
    assert UploadSettings().allowed_media_types == ("video/*", "audio/ogg")
    assert [one.host for one in GatewaySettings().upload_urls] == ["one", "two"]
    types.write_text("video/*", "utf-8")
    with pytest.raises(SettingsError, match="media_types"):
        UploadSettings()


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "0"), ("PORT", "x"), ("LOG_LEVEL", "loud"), ("SHUTDOWN_TIMEOUT", "-1")]
)
def test_invalid_value_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GRIDCAST_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        MongoSettings()


def test_the_files_store_needs_a_folder_and_no_mongodb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MONGODB_URI", "GRIDCAST_MONGODB_URI", "GRIDCAST_FILES_DIR", "GRIDCAST_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRIDCAST_STORE", "files")
    with pytest.raises(ValidationError, match="needs a folder"):
        UploadSettings()
    monkeypatch.setenv("GRIDCAST_FILES_DIR", str(tmp_path))
    secret = tmp_path / "url"
    secret.write_text("postgresql+asyncpg://user:hush@host/gridcast\n", "utf-8")
    monkeypatch.setenv("GRIDCAST_DATABASE_URL_FILE", str(secret))
    settings = UploadSettings()
    assert (settings.store, settings.files_dir) == ("files", str(tmp_path))
    assert settings.database_url.get_secret_value() == "postgresql+asyncpg://user:hush@host/gridcast"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [("STORE", "disk"), ("DATABASE_URL", "mysql://user:hush@host/gridcast"), ("FILES_DIR", "a\nb")],
)
def test_invalid_settings_of_the_store(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GRIDCAST_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()) as refused:
        UploadSettings()
    assert "hush" not in str(refused.value)
