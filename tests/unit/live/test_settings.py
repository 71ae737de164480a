"""services.live.settings: the limits of live streams, and what the live service shares with upload."""

import pytest
from pydantic import ValidationError

from services.common.store.quotas import Quota
from services.common.store.timings import StoreTimings
from services.common.store.writer_settings import WriterSettings
from services.live.settings import MAX_GRACE_SECONDS, MAX_TARGET_SECONDS, LiveSettings
from services.upload.settings import UploadSettings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LiveSettings.model_fields:
        monkeypatch.delenv(f"GRIDCAST_{name.upper()}", raising=False)


def test_a_day_of_media_at_two_seconds_a_segment_by_default() -> None:
    settings = LiveSettings()
    assert (settings.port, settings.live_token_ttl, settings.live_max_duration) == (8004, 86400, 86400)
    assert (settings.live_target_duration, settings.live_interrupted_after, settings.live_grace) == (2, 5, 60)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDCAST_LIVE_TOKEN_TTL", "60")
    monkeypatch.setenv("GRIDCAST_LIVE_INTAKE_FACTOR", "0")
    settings = LiveSettings()
    assert (settings.live_token_ttl, settings.live_intake_factor) == (60, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("live_token_ttl", 0),
        ("live_max_bytes", 1),
        ("live_max_duration", 0),
        ("live_max_rate", -1),
        ("live_max_streams_per_owner", -1),
        ("live_max_messages", -1),
        ("live_max_publishers", 0),
        ("live_intake_factor", -1),
        ("live_target_duration", 0),
        ("live_target_duration", MAX_TARGET_SECONDS + 1),
        ("live_interrupted_after", 0),
        ("live_grace", MAX_GRACE_SECONDS + 1),
        ("redis_url", "http://localhost"),
    ],
)
def test_bad_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        LiveSettings(**{name: value})  # type: ignore[arg-type]  # that is the test
    assert caught.value.error_count() == 1


def test_upload_and_live_share_quotas_and_clocks() -> None:
    """Both write into one store: a variable that one of them ignored would make two rules of one."""
    for shared in WriterSettings.model_fields.keys() - {"port"}:
        assert LiveSettings.model_fields[shared].default == UploadSettings.model_fields[shared].default, shared
    values = {"max_bytes_per_owner": 5, "max_unfinished_uploads_per_owner": 2, "lease_ttl": 1.0, "tombstone_ttl": 2.0}
    for settings in (LiveSettings(**values), UploadSettings(**values)):  # type: ignore[arg-type]
        assert settings.quota() == Quota(5, 2)
        assert settings.store_timings() == StoreTimings(1.0, 2.0, settings.second_purge_delay)
