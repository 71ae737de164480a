"""services.common.auth.tokens and jwks: every case of a bad token, and no exception but those that are answered."""

import base64
import contextlib
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from services.common.auth.identity import Identity
from services.common.auth.jwks import KeySet, parse_key_set
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.key_sources import RingKeys
from services.common.auth.keys import KeySource, UnknownKey, VerificationKey
from services.common.auth.tokens import TokenPolicy, verify_token
from services.common.errors import InvalidToken
from tests.support import tokens
from tests.support.tokens import OTHER_SECRET, SECRET, sign

NOW = time.time()
POLICY = TokenPolicy("gridcast")
RING = RingKeys(parse_key_ring(f"k1 {SECRET},k2 {OTHER_SECRET} 2020-01-01T00:00:00Z"))
HEADER = {"alg": "HS256", "typ": "JWT", "kid": "k1"}


def claims(subject: str = "alice", scope: str | None = None, **changes: Any) -> dict[str, Any]:
    """The claims of a token that was issued when this module was imported: all times here are relative to that moment."""
    return tokens.claims(subject, scope, **{"iat": int(NOW), "exp": int(NOW) + 300, **changes})


def verify(token: str, keys: KeySource = RING, policy: TokenPolicy = POLICY, now: float = NOW) -> Identity:
    return verify_token(token, keys, policy, now)


def test_a_good_token() -> None:
    good = claims(scope="read:a write", exp=int(NOW) + 60, jti="one")
    identity = verify(sign(HEADER, good))
    assert (identity.subject, identity.token_id, identity.expires_at) == ("alice", "one", int(NOW) + 60)
    assert identity.rights.may_folder("read", "a")
    assert not identity.rights.may_folder("read", "b")
    for header in ({"alg": "HS256"}, {"alg": "HS256", "typ": "at+jwt"}, {"alg": "HS256", "typ": "jwt", "kid": "k1"}):
        assert verify(sign(header, good)).subject == "alice"
    own = jwt.decode(
        sign(HEADER, good), SECRET, algorithms=["HS256"], audience="gridcast", options={"verify_exp": False}
    )
    assert own["sub"] == "alice"


CLAIM_CASES: dict[str, dict[str, Any]] = {
    "expired": {"exp": NOW - 11},
    "not yet": {"nbf": NOW + 11},
    "issued later": {"iat": NOW + 11},
    "no exp": {"exp": None},
    "no sub": {"sub": None},
    "empty sub": {"sub": ""},
    "sub a number": {"sub": 7},
    "long sub": {"sub": "x" * 256},
    "half a character in sub": {"sub": "\ud800"},
    "zero in sub": {"sub": "a\0"},
    "no aud": {"aud": None},
    "another aud": {"aud": "other"},
    "other auds": {"aud": ["a", "b"]},
    "aud in an object": {"aud": {"gridcast": 1}},
    "exp a text": {"exp": str(int(NOW) + 60)},
    "exp true": {"exp": True},
    "exp negative": {"exp": -1},
    "exp null": {"exp": [None]},
    "exp too far": {"exp": NOW + 86400 + 60},
    "exp beyond all": {"exp": 2**63},
    "nbf a text": {"nbf": "0"},
    "jti a list": {"jti": ["x"]},
    "scope a number": {"scope": 1},
    "scope a list of numbers": {"scope": [1]},
    "scope with 65 words": {"scope": "read:a " * 65},
}


@pytest.mark.parametrize("changes", CLAIM_CASES.values(), ids=CLAIM_CASES.keys())
def test_claims_that_are_refused(changes: dict[str, Any]) -> None:
    members = claims(**{key: value for key, value in changes.items() if key != "sub"})
    if "sub" in changes:
        members.pop("sub") if changes["sub"] is None else members.update(sub=changes["sub"])
    with pytest.raises(InvalidToken):
        verify(sign(HEADER, members))


def test_leeway_and_lists() -> None:
    assert verify(sign(HEADER, claims(exp=NOW - 9))).subject == "alice"
    assert verify(sign(HEADER, claims(nbf=NOW + 9, iat=NOW + 9))).subject == "alice"
    assert verify(sign(HEADER, claims(aud=["x", "gridcast"]))).subject == "alice"
    assert verify(sign(HEADER, claims(scope=["read:a", "write:b"]))).rights.may_folder("write", "b")  # type: ignore[arg-type]


def test_the_issuer_where_it_is_set() -> None:
    policy = TokenPolicy("gridcast", issuer="https://idp.example")
    assert verify(sign(HEADER, claims(iss="https://idp.example")), policy=policy).subject == "alice"
    for issuer in (None, "https://idp.example/", ["https://idp.example"]):
        with pytest.raises(InvalidToken):
            verify(sign(HEADER, claims(iss=issuer)), policy=policy)


def test_infinite_numbers_and_duplicate_members() -> None:
    for payload in (
        b'{"sub":"a","aud":"gridcast","exp":1e400}',
        b'{"sub":"a","aud":"gridcast","exp":NaN}',
        b'{"sub":"a","aud":"gridcast","exp":Infinity}',
        f'{{"sub":"a","sub":"admin","aud":"gridcast","exp":{int(NOW) + 60}}}'.encode(),
        b"[1]",
        b"\xff",
        b"[" * 5000,
        b'{"exp":' + b"9" * 5000 + b"}",
    ):
        with pytest.raises(InvalidToken):
            verify(sign(HEADER, payload))


HEADER_CASES: dict[str, Any] = {
    "alg none": {"alg": "none"},
    "alg None": {"alg": "None"},
    "alg nOnE": {"alg": "nOnE"},
    "no alg": {"typ": "JWT"},
    "alg a list": {"alg": ["HS256"]},
    "HS512": {"alg": "HS512"},
    "RS256 in the mode hs256": {"alg": "RS256", "kid": "k1"},
    "jwk": {**HEADER, "jwk": {"kty": "oct", "k": "AAAA"}},
    "jku": {**HEADER, "jku": "http://127.0.0.1:1/keys"},
    "x5u": {**HEADER, "x5u": "http://127.0.0.1:1/keys"},
    "x5c": {**HEADER, "x5c": ["AAAA"]},
    "crit": {**HEADER, "crit": ["exp"]},
    "b64": {**HEADER, "b64": True},
    "typ": {**HEADER, "typ": "logout+jwt"},
    "typ a number": {**HEADER, "typ": 1},
    "unknown kid": {**HEADER, "kid": "k9"},
    "kid of an ended key": {**HEADER, "kid": "k2"},
    "kid a path": {**HEADER, "kid": "../../dev/null"},
    "kid of 10 kB": {**HEADER, "kid": "k" * 10_000},
    "kid a list": {**HEADER, "kid": ["k1"]},
    "kid empty": {**HEADER, "kid": ""},
    "not an object": ["HS256"],
    "not JSON": b"{",
}


@pytest.mark.parametrize("header", HEADER_CASES.values(), ids=HEADER_CASES.keys())
def test_headers_that_are_refused(header: Any) -> None:
    with pytest.raises(InvalidToken):
        verify(sign(header, claims()))


def test_an_unsigned_token_and_other_spellings() -> None:
    good = sign(HEADER, claims())
    first, second, signature = good.split(".")
    last = signature[-1]
    twin = next(
        c
        for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if c != last and ord(c) ^ ord(last)
    )
    for bad in (
        f"{first}.{second}.",
        f"{first}.{second}",
        f"{good}.{second}.{signature}",
        f"{good}=",
        f" {good}",
        f"{good}\n",
        f"{first}.{second}.{signature[:-1]}{twin}",
        f"{first}.{second}..{signature}",
        f"{first[:4]} {first[4:]}.{second}.{signature}",
        f"{first}.{second}.{signature[:10]}!{signature[10:]}",
        sign(HEADER, claims(), OTHER_SECRET),
        sign(HEADER, claims(), b""),
        "x" * 9000,
        f"{first}.{'A' * 9000}.{signature}",
        "",
        "..",
    ):
        with pytest.raises(InvalidToken):
            verify(bad)


def test_every_flipped_bit_is_refused() -> None:
    good = sign(HEADER, claims()).encode()
    for position in range(len(good)):
        for bit in range(7):
            flipped = bytearray(good)
            flipped[position] ^= 1 << bit
            with pytest.raises(InvalidToken):
                verify(flipped.decode("latin-1"))


def test_a_token_ends_with_its_key() -> None:
    end = int(NOW) + 100
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    ring = RingKeys(parse_key_ring(f"new {OTHER_SECRET},k1 {SECRET} {stamp}"))
    assert verify(sign(HEADER, claims()), ring).expires_at == end - 10
    with pytest.raises(InvalidToken):
        verify(sign(HEADER, claims(exp=end + 1000)), ring, now=end)


def test_default_scope_is_for_tokens_without_words_of_ours() -> None:
    policy = TokenPolicy("gridcast", default_scope="read:u/{sub}/* listen", scope_claim="permissions")
    for changes in ({}, {"permissions": "openid profile"}, {"permissions": ["openid"]}):
        rights = verify(sign(HEADER, claims(**changes)), policy=policy).rights
        assert rights.may_folder("read", "u/alice/x")
        assert not rights.may_folder("read", "u/bob")
    limited = verify(sign(HEADER, claims(permissions="read:../x")), policy=policy).rights
    assert not limited.may_somewhere("read")


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: base64.b64encode(data).decode()))
def test_any_text_is_answered(text: str) -> None:
    with pytest.raises(InvalidToken):
        verify(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["exp", "sub", "aud", "iat", "nbf", "jti", "scope", "iss"]), JSON))
def test_any_signed_claims_are_answered(changes: dict[str, Any]) -> None:
    try:
        identity = verify(sign(HEADER, {**claims(), **changes}))
    except InvalidToken:
        return
    assert identity.subject
    assert identity.expires_at > NOW - 10


@given(JSON, JSON)
def test_any_signed_header_is_answered(header: Any, payload: Any) -> None:
    with pytest.raises(InvalidToken):
        verify(sign(header, payload))


# Public keys.

PRIVATE: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
_TO_JWK: dict[str, Any] = {
    "rsa": jwt.algorithms.RSAAlgorithm,
    "ec": jwt.algorithms.ECAlgorithm,
    "ed": jwt.algorithms.OKPAlgorithm,
}


def public_jwk(name: str, **members: Any) -> dict[str, Any]:
    document = _TO_JWK[name].to_jwk(PRIVATE[name].public_key(), as_dict=True)
    return {**document, "kid": name, **members}


def key_set(*keys: dict[str, Any]) -> KeySet:
    return parse_key_set(json.dumps({"keys": keys}).encode())


class SetKeys:
    """A KeySource of one parsed set."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def find_keys(self, kid: str | None, algorithm: str, now: float) -> list[VerificationKey]:
        return list(self._keys.find_keys(kid, algorithm))


ALL = SetKeys(key_set(public_jwk("rsa"), public_jwk("ec"), public_jwk("ed")))


@pytest.mark.parametrize(("name", "algorithm"), [("rsa", "RS256"), ("rsa", "PS256"), ("ec", "ES256"), ("ed", "EdDSA")])
def test_algorithms_of_the_key_families(name: str, algorithm: str) -> None:
    token = jwt.encode(claims(), PRIVATE[name], algorithm, {"kid": name})
    assert verify(token, ALL).subject == "alice"
    without_kid = jwt.encode(claims(), PRIVATE[name], algorithm)
    assert verify(without_kid, ALL).subject == "alice"


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS512", "ES384", "HS256"])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    name = "ec" if algorithm.startswith("E") else "rsa"
    key = SECRET if algorithm == "HS256" else ec.generate_private_key(ec.SECP384R1()) if name == "ec" else PRIVATE[name]
    with pytest.raises(InvalidToken):
        verify(jwt.encode(claims(), key, algorithm, {"kid": name}), ALL)


def test_a_key_with_an_algorithm_of_its_own_verifies_no_other() -> None:
    keys = SetKeys(key_set(public_jwk("rsa", alg="PS256")))
    assert verify(jwt.encode(claims(), PRIVATE["rsa"], "PS256", {"kid": "rsa"}), keys).subject == "alice"
    with pytest.raises(InvalidToken):
        verify(jwt.encode(claims(), PRIVATE["rsa"], "RS256", {"kid": "rsa"}), keys)


def test_the_public_key_as_a_secret() -> None:
    """Key confusion: HS256 with what every reader of the key set has."""
    public = PRIVATE["rsa"].public_key()
    encodings = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        json.dumps(public_jwk("rsa")).encode(),
    ]
    for secret in encodings:
        for header in ({"alg": "HS256", "kid": "rsa"}, {"alg": "HS256"}, {"alg": "RS256", "kid": "rsa"}):
            with pytest.raises(InvalidToken):
                verify(sign(header, claims(), secret), ALL)


def test_an_unknown_kid_asks_for_a_newer_set() -> None:
    with pytest.raises(UnknownKey):
        verify(jwt.encode(claims(), PRIVATE["rsa"], "RS256", {"kid": "new"}), ALL)


REFUSED_SETS: dict[str, bytes] = {
    "HTML": b"<html>",
    "a list": b"[]",
    "no keys": b'{"keys":[]}',
    "keys of no object": b'{"keys":["a"]}',
    "deep": b'{"keys":' + b"[" * 3000,
    "symmetric": json.dumps({"keys": [public_jwk("rsa"), {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}).encode(),
    "two of one name": json.dumps({"keys": [public_jwk("rsa"), public_jwk("ec", kid="rsa")]}).encode(),
    "two without a name": json.dumps({"keys": [public_jwk("rsa", kid=None), public_jwk("ec", kid=None)]}).encode(),
    "malformed": json.dumps({"keys": [{"kty": "RSA", "n": "!", "e": "AQAB", "kid": "a"}]}).encode(),
    "a point off the curve": json.dumps({"keys": [public_jwk("ec", x="AAAA", y="AAAA")]}).encode(),
    "kid a number": json.dumps({"keys": [public_jwk("rsa", kid=7)]}).encode(),
    "for encryption only": json.dumps({"keys": [public_jwk("rsa", use="enc")]}).encode(),
    "too many": json.dumps({"keys": [public_jwk("rsa", kid=str(number)) for number in range(65)]}).encode(),
}


@pytest.mark.parametrize("body", REFUSED_SETS.values(), ids=REFUSED_SETS.keys())
def test_key_sets_that_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(it|a|two|an)\b"):
        parse_key_set(body)


def test_a_short_rsa_key_is_refused() -> None:
    short = jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    with pytest.raises(ValueError, match="less than 2048 bits"):
        parse_key_set(json.dumps({"keys": [{**short, "kid": "short"}]}).encode())


def test_keys_for_other_purposes_are_left_out() -> None:
    keys = key_set(
        public_jwk("rsa"),
        public_jwk("ec", use="enc"),
        public_jwk("ed", key_ops=["sign"]),
        {"kty": "EC", "crv": "P-521", "kid": "large"},
        {"kty": "future", "kid": "x"},
        public_jwk("rsa", kid="oaep", alg="RSA-OAEP"),
    )
    assert len(keys) == 1
    assert key_set(public_jwk("rsa")).fingerprint != key_set(public_jwk("rsa", alg="RS256")).fingerprint


@given(st.dictionaries(st.sampled_from(["kty", "crv", "n", "e", "x", "y", "alg", "use", "kid", "key_ops"]), JSON))
def test_any_key_is_answered(changes: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        key_set({**public_jwk("rsa"), **changes})
