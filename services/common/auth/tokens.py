"""Verifies tokens: JSON Web Tokens in their compact form (RFC 7519), by rules that leave no choice to the token (RFC 8725).

The signature is PyJWT's. The rules for header and claims are ours, because PyJWT takes text for a time, and checks no size and no
longest life.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import jwt

from services.common.auth.identity import Identity
from services.common.auth.keys import LEEWAY_SECONDS, MAX_KID_LENGTH, MAX_SUBJECT_LENGTH, KeySource
from services.common.auth.rights import fill_in_subject, has_known_verb, parse_scope
from services.common.errors import InvalidToken

MAX_TOKEN_BYTES = 8 * 1024
MAX_TOKEN_ID_LENGTH = 255
ALGORITHMS = ("HS256", "RS256", "PS256", "ES256", "EdDSA")

_LAST_TIME = 2**53
"""Greater numbers are no times: JSON holds them in part only (RFC 8259, 6)."""
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_TYPES = frozenset({"jwt", "at+jwt"})
_FORBIDDEN_HEADERS = frozenset({"crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"})


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What a token must say.

    Arguments:
        audience: one of the values of `aud`.
        issuer: the value of `iss`, which is not looked at where this is empty.
        scope_claim: the name of the claim with the words of the scope.
        default_scope: the scope of tokens whose claim has no word for this API; `{sub}` stands for the subject.
        max_life: seconds from now to `exp`, at most.

    """

    audience: str
    issuer: str = ""
    scope_claim: str = "scope"
    default_scope: str = ""
    max_life: float = 86400.0


def verify_token(token: str, keys: KeySource, policy: TokenPolicy, now: float) -> Identity:
    """Return the identity that a token proves at the Unix time `now`.

    Raises InvalidToken, whose text quotes nothing of the token; UnknownKey; ServiceUnavailable where there is no key set.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken(f"it has more than {MAX_TOKEN_BYTES} bytes")
    if not _COMPACT.match(token):
        raise InvalidToken("it is not three base64url segments")
    kid, algorithm = _parse_header(token)
    candidates = [key for key in keys.find_keys(kid, algorithm, now) if algorithm in key.algorithms]
    for candidate in candidates:
        try:
            payload = _JWS.decode_complete(token, candidate.key, algorithms=[algorithm])["payload"]
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError, TypeError):
            raise InvalidToken("it is malformed") from None
        identity = check_claims(_parse_object(payload), policy, now)
        end = min(identity.expires_at, candidate.not_after - LEEWAY_SECONDS)  # a key has no leeway
        return Identity(identity.subject, identity.rights, end, identity.token_id, identity.issued_at)
    raise InvalidToken("no key of this server has signed it")


_JWS = jwt.PyJWS(algorithms=list(ALGORITHMS), options={"verify_signature": True, "enforce_minimum_key_length": True})


def _parse_header(token: str) -> tuple[str | None, str]:
    """Return `kid` and `alg`. Whether the algorithm may be used is for the key to say."""
    try:
        header = jwt.utils.base64url_decode(token.partition(".")[0])
    except ValueError:
        raise InvalidToken("it is malformed") from None
    members = _parse_object(header)
    kid, algorithm, token_type = members.get("kid"), members.get("alg"), members.get("typ", "JWT")
    if not _FORBIDDEN_HEADERS.isdisjoint(members):
        raise InvalidToken("its header has members that are not accepted")
    if algorithm not in ALGORITHMS:
        raise InvalidToken("its algorithm is not accepted")
    if not isinstance(token_type, str) or token_type.lower() not in _TYPES:
        raise InvalidToken("its type is not JWT")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_LENGTH):
        raise InvalidToken("its kid is not a text")
    return kid, algorithm


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, object_pairs_hook=_unique_members, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise InvalidToken("it is malformed") from None
    if not isinstance(value, dict):
        raise InvalidToken("it is malformed")
    return value


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of one object with two equal names may see different values (RFC 8259, 4)."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def check_claims(claims: dict[str, Any], policy: TokenPolicy, now: float) -> Identity:
    """Return the identity that claims with a valid signature state. Raises InvalidToken."""
    expires_at = _check_times(claims, policy.max_life, now)
    subject = _parse_text(claims, "sub", MAX_SUBJECT_LENGTH)
    if not subject:
        raise InvalidToken("it has no sub")
    audiences = claims.get("aud")
    if policy.audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise InvalidToken("its aud is not this server")
    if policy.issuer and claims.get("iss") != policy.issuer:
        raise InvalidToken("its iss is not the issuer of this server")
    token_id = _parse_text(claims, "jti", MAX_TOKEN_ID_LENGTH)
    try:
        rights = parse_scope(_scope_text(claims, policy, subject))
    except ValueError:
        raise InvalidToken("its scope has too many words") from None
    return Identity(subject, rights, expires_at, token_id, _parse_time(claims, "iat") or 0.0)


def _check_times(claims: dict[str, Any], max_life: float, now: float) -> float:
    """Return `exp`. Raises InvalidToken."""
    expires_at = _parse_time(claims, "exp")
    if expires_at is None:
        raise InvalidToken("it has no exp")
    if now >= expires_at + LEEWAY_SECONDS:
        raise InvalidToken("it has expired")
    if expires_at - now > max_life + LEEWAY_SECONDS:
        raise InvalidToken("its exp is later than this server accepts")
    for name in ("nbf", "iat"):
        moment = _parse_time(claims, name)
        if moment is not None and moment > now + LEEWAY_SECONDS:
            raise InvalidToken(f"its {name} is in the future")
    return expires_at


def _scope_text(claims: dict[str, Any], policy: TokenPolicy, subject: str) -> str:
    value = claims.get(policy.scope_claim, "")
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if not isinstance(value, str):
        raise InvalidToken("its scope is neither a text nor a list of texts")
    return value if has_known_verb(value) else fill_in_subject(policy.default_scope, subject)


def _parse_time(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519, 2), None where the claim is missing. Raises InvalidToken for anything but a number."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST_TIME:
        raise InvalidToken(f"its {name} is not a time")
    return float(value)


def _parse_text(claims: dict[str, Any], name: str, max_length: int) -> str:
    """Return a claim that is text, empty where it is missing. Raises InvalidToken for what no store and no log can encode."""
    value = claims.get(name, "")
    try:
        if isinstance(value, str) and len(value) <= max_length and "\0" not in value:
            value.encode()
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidToken(f"its {name} is not a text of at most {max_length} characters")
