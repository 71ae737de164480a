"""services.common.http.secret_paths: no spelling of a path with a publish token is logged with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.http.secret_paths import redact_path

ADDRESS, TAG = f"{'a' * 24}-{'b' * 24}", "c0" * 16
TOKEN = "q_-secretsecretsecretsecretsecretsecretsecret"


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (f"/live/abc/key/{TOKEN}/media", "/live/abc/key/-/media"),
        (f"/live/abc/key/{TOKEN}/media/init.mp4", "/live/abc/key/-/media/init.mp4"),
        (f"/live/abc/key/{TOKEN}", "/live/abc/key/-"),
        (f"/prefix/live/abc/key/{TOKEN}/media", "/prefix/live/abc/key/-/media"),
        (f"//live//abc//key//{TOKEN}//media", "//live//abc//key//-//media"),
        (f"/LIVE/abc/Key/{TOKEN}/media", "/LIVE/abc/Key/-/media"),
        (f"/live/abc/key/{TOKEN};a=b/media", "/live/abc/key/-/media"),
        (f"/live/abc/0/key/{TOKEN}/media", "/live/abc/0/key/-/media"),
        ("/live/abc/key/", "/live/abc/key/"),
        ("/live/abc/media/key.mp4", "/live/abc/media/key.mp4"),
        ("/live/abc/0/12.m4s", "/live/abc/0/12.m4s"),
        ("/files/monkey/key/film.mp4", "/files/monkey/key/film.mp4"),
        (f"/upload/{ADDRESS}-{TAG}/stream", f"/upload/{ADDRESS}--/stream"),
        (f"/prefix//Upload//{ADDRESS}-{TAG}", f"/prefix//Upload//{ADDRESS}--"),
        ("/file/upload", "/file/upload"),
        ("", ""),
    ],
)
def test_the_token_alone_is_replaced(path: str, logged: str) -> None:
    assert redact_path(path) == logged


@given(st.text("abc-_019", min_size=1).map("/live/".__add__), st.sampled_from(["", "/", "/media", "/media/a/b", "?x"]))
def test_no_token_is_left(prefix: str, rest: str) -> None:
    assert TOKEN not in redact_path(f"{prefix}/key/{TOKEN}{rest}")
