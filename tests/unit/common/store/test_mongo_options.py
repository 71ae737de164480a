"""services.common.store.gridfs.mongo: a connection string that only the driver refuses, or warns about, is not quoted."""

import logging
import warnings

import pytest
from pymongo.errors import ConfigurationError

from services.common.store.gridfs.mongo import MongoDriver, open_mongo_database
from tests.support.secret_leaks import SECRET, describe, find_leaks

DRIVERS: tuple[MongoDriver, ...] = ("motor", "pymongo")
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "uri",
    [
        f"mongodb://user:{SECRET}@host/?tls=true&tlsInsecure=true&tlsAllowInvalidCertificates=true",
        f"mongodb://user:{SECRET}@host/?authMechanism=GSSAPI&authSource={SECRET}",
        f"mongodb://host/?tls=true&tlsCertificateKeyFile=/no/{SECRET}&tlsCertificateKeyFilePassword={SECRET}",
        f"mongodb://a,b/{SECRET}?directConnection=true",
    ],
)
async def test_an_error_of_the_driver_is_not_quoted(uri: str, driver: MongoDriver) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_mongo_database(uri, "gridcast", driver)
    assert find_leaks(describe(refused.value)) == []


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("options", "count"),
    [
        (f"maxPoolSize={SECRET}", 1),
        (f"{''.join(filter(str.isalpha, SECRET))}={SECRET}&compressors={SECRET}", 2),
        (f"readConcernLevel={SECRET}", 0),
    ],
)
async def test_a_warning_of_the_driver_is_counted_and_not_quoted(
    caplog: pytest.LogCaptureFixture, options: str, count: int, driver: MongoDriver
) -> None:
    with warnings.catch_warnings(record=True) as shown, caplog.at_level(logging.WARNING):
        database = open_mongo_database(f"mongodb://127.0.0.1:1/?{options}", "gridcast", driver)
    await database.aclose()
    assert shown == []
    assert [one.__dict__["fields"] for one in caplog.records] == ([{"count": count}] if count else [])
    assert find_leaks(caplog.text) == []
