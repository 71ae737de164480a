"""services.common.database_url: valid addresses pass, and what is said about others contains no part of them."""

import pytest
from sqlalchemy.engine import make_url

from services.common.database_url import check_database_url

VALID = [
    "sqlite+aiosqlite:///relative/gridcast.sqlite3",
    "sqlite:///relative/gridcast.sqlite3",
    "sqlite:////srv/media/grid cast.sqlite3",
    "postgresql+asyncpg://localhost/gridcast",
    "postgresql+asyncpg://user:p%40ss%2Fw%3Aord@host:5432/gridcast?ssl=require",
    "postgresql+asyncpg://user@[::1]:5432/gridcast",
    "postgresql+asyncpg:///gridcast?host=/run/postgresql",
    "postgresql+asyncpg://user:p$&'()*+,;=!@host/gridcast",
]
MALFORMED = [
    "secret",
    "secret://secret",
    "sqlite+pysqlite:///secret",
    "sqlite:///",
    "sqlite:///secret?mode=ro",
    "postgresql://secret@secret/secret",
    "sqlite+aiosqlite://",
    "sqlite+aiosqlite:///",
    "sqlite+aiosqlite:///:memory:",
    "sqlite+aiosqlite:///secret/",
    "sqlite+aiosqlite:///secret?mode=ro",
    "sqlite+aiosqlite://secret/secret",
    "sqlite+aiosqlite:///secret\0",
    "postgresql+asyncpg://secret",
    "postgresql+asyncpg://secret/",
    "postgresql+asyncpg://user:sec/ret@host/gridcast",
    "postgresql+asyncpg://user:sec?ret@host/gridcast",
    "postgresql+asyncpg://user:sec#ret@host/gridcast",
    "postgresql+asyncpg://user:sec@ret@host/gridcast",
    "postgresql+asyncpg://user:sec:ret@host/gridcast",
    "postgresql+asyncpg://user:sec%ret@host/gridcast",
    "postgresql+asyncpg://user:sec ret@host/gridcast",
    "postgresql+asyncpg://:secret@host/gridcast",
    "postgresql+asyncpg://host:0/secret",
    "postgresql+asyncpg://host:65536/secret",
    "postgresql+asyncpg://host:secret/gridcast",
    "postgresql+asyncpg://host/gridcast?secret",
]


@pytest.mark.parametrize("url", VALID)
def test_valid_addresses_pass_here_and_in_the_library(url: str) -> None:
    check_database_url(url)
    parsed = make_url(url)
    assert parsed.database
    assert parsed.password in {None, "p@ss/w:ord", "p$&'()*+,;=!"}


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_said_about_a_malformed_address_contains_no_part_of_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(?:the|an) address of ") as refused:
        check_database_url(url)
    assert "secret" not in str(refused.value)
    assert not any(part in str(refused.value) for part in ("sec/", "sec?", "sec#", "sec@", "ret@", "65536/"))
