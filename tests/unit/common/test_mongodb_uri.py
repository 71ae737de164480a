"""services.common.mongodb_uri: valid strings pass, and what is said about others contains no part of them."""

import pytest
from pymongo.uri_parser import parse_uri

from services.common.mongodb_uri import check_mongodb_uri
from tests.support.secret_leaks import MALFORMED_MONGODB_URIS, describe, find_leaks

VALID = [
    "mongodb://127.0.0.1:27017",
    "mongodb://localhost",
    "mongodb://user:p%40ss%2Fword@a:1,b:65535,c/gridcast?replicaSet=rs0&w=majority",
    "mongodb://user:p#[]!$&'()*+,;=@host/?authSource=admin",
    "mongodb://user@host/gridcast?tls=true;retryWrites=false",
    "mongodb://[::1]:27017,[fe80::1%25eth0]/gridcast",
    "mongodb://%2Ftmp%2Fmongodb-27017.sock/gridcast",
    "mongodb://host?tls=false",
    "mongodb://host/gridcast?authMechanismProperties=SERVICE_NAME:x,CANONICALIZE_HOST_NAME:true",
    "mongodb://user:pässwörd@host/",
]


@pytest.mark.parametrize("uri", VALID)
def test_valid_strings_pass_here_and_in_the_driver(uri: str) -> None:
    check_mongodb_uri(uri)
    parse_uri(uri)


def test_a_host_name_of_srv_passes() -> None:
    """Not parsed by the driver, which would look it up."""
    check_mongodb_uri("mongodb+srv://user:word@cluster.example.org/gridcast?retryWrites=true&w=majority")


@pytest.mark.parametrize("uri", MALFORMED_MONGODB_URIS.values(), ids=MALFORMED_MONGODB_URIS.keys())
def test_what_is_said_about_a_malformed_string_contains_no_part_of_it(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^a connection string of MongoDB ") as refused:
        check_mongodb_uri(uri)
    assert find_leaks(describe(refused.value)) == []
