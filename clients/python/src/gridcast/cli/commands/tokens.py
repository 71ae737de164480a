"""`gridcast token`: makes a token of the mode hs256, as `python -m gateway.token` does in a checkout of the server."""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import click

from gridcast.cli.exit_codes import ExitCode
from gridcast.errors import InvalidRequest

GRANTABLE_VERBS = ("admin", "delete", "link", "listen", "publish", "push", "read", "sockets", "write")
SHORTEST_SECRET_BYTES = 32
MAX_LIFE_SECONDS = 86_400
_WORD = re.compile(rf"(?:{'|'.join(GRANTABLE_VERBS)})(?::[!-~]*)?")


@click.command()
@click.argument("subject")
@click.argument("scope", nargs=-1, required=True)
@click.option(
    "--life", type=click.IntRange(1, MAX_LIFE_SECONDS), default=3600, show_default=True, help="Seconds until it ends."
)
@click.option("--secret-file", type=click.Path(path_type=Path), help="A file with the secret of the server.")
def token(subject: str, scope: tuple[str, ...], *, life: int, secret_file: Path | None) -> int:
    """Make a token to try a server whose GRIDCAST_AUTH is hs256, with the server's own secret: its operator has it.

    SCOPE are rights: read, write, delete, listen, push, sockets, link, publish, admin; with a folder or a topic: read:films/*
    listen:room/1. The secret is GRIDCAST_AUTH_SECRET or in the file GRIDCAST_AUTH_SECRET_FILE; its first entry signs. The token is
    the one line on stdout: gridcast token alice read write > token.

    """
    words = " ".join(scope).split()
    for word in words:
        if not _WORD.fullmatch(word):
            raise click.UsageError(
                f"{word!r} grants nothing; rights are {' '.join(GRANTABLE_VERBS)}, with :FOLDER or :TOPIC"
            )
    if not subject or not words:
        raise click.UsageError("a token has a subject and rights")
    kid, secret = parse_secret(_read_secret(secret_file))
    now = int(time.time())
    claims = {
        "sub": subject,
        "aud": os.environ.get("GRIDCAST_AUTH_AUDIENCE") or "gridcast",
        "iat": now,
        "exp": now + life,
        "jti": secrets.token_urlsafe(12),
        os.environ.get("GRIDCAST_AUTH_SCOPE_CLAIM") or "scope": " ".join(words),
    }
    if issuer := os.environ.get("GRIDCAST_AUTH_ISSUER"):
        claims["iss"] = issuer
    click.echo(sign(kid, secret, claims))
    return ExitCode.OK


def parse_secret(text: str) -> tuple[str, bytes]:
    """Return name and bytes of the first secret of a ring: `name secret [end]` or a secret alone, separated by commas or line ends.

    Raises InvalidRequest, which never quotes the text.
    """
    entries = [words for entry in re.split(r"[,\n]", text) if (words := entry.split())]
    if not entries or len(entries[0]) > 3:
        raise InvalidRequest("the secret of the server is written as: name secret [end], or alone")
    words = entries[0]
    secret = words[min(len(words) - 1, 1)].encode()
    if len(secret) < SHORTEST_SECRET_BYTES:
        raise InvalidRequest(
            f"the secret has {len(secret)} bytes, and that of a server at least {SHORTEST_SECRET_BYTES}"
        )
    return words[0] if len(words) > 1 else _derive_kid(secret), secret


def sign(kid: str, secret: bytes, claims: Mapping[str, object]) -> str:
    """Return a JSON Web Token in its compact form (RFC 7519), signed by HMAC with SHA-256 (RFC 7518, 3.2)."""
    header = {"alg": "HS256", "typ": "JWT", "kid": kid}
    signed = ".".join(_encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{signed}.{_encode(hmac.digest(secret, signed.encode(), 'sha256'))}"


def _read_secret(path: Path | None) -> str:
    if path is None:
        text, named = os.environ.get("GRIDCAST_AUTH_SECRET"), os.environ.get("GRIDCAST_AUTH_SECRET_FILE")
        if text:
            return text
        if not named:
            raise InvalidRequest("there is no secret: set GRIDCAST_AUTH_SECRET or GRIDCAST_AUTH_SECRET_FILE")
        path = Path(named)
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidRequest(f"the file with the secret cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequest("the file with the secret is not UTF-8") from None


def _derive_kid(secret: bytes) -> str:
    """Return the name that servers give to a secret without one: HKDF with SHA-256 (RFC 5869), 6 bytes in hex."""
    extracted = hmac.digest(b"gridcast", secret, hashlib.sha256)
    return hmac.digest(extracted, b"gridcast kid\x01", hashlib.sha256)[:6].hex()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
