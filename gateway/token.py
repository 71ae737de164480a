"""`python -m gateway.token`: makes a token of the mode hs256, to try a closed instance. The token is the one line on stdout.

It reads GRIDCAST_AUTH_SECRET, or the file that GRIDCAST_AUTH_SECRET_FILE names, as the services do. An identity provider makes the
tokens of users; this program is for operators and tests.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Sequence

from services.common.auth.key_ring import parse_key_ring
from services.common.auth.minting import mint_token
from services.common.auth.rights import VERBS, parse_scope
from services.common.settings import AuthSettings, load_settings

DEFAULT_LIFE_SECONDS = 3600


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a token. Returns 1 where there is no secret, 2 for wrong arguments."""
    options = _parse_arguments(arguments)
    settings = load_settings(AuthSettings)
    secret = settings.auth_secret.get_secret_value()
    if not secret:
        return _fail("GRIDCAST_AUTH_SECRET is not set: openssl rand -hex 32 makes one", 1)
    try:
        key = parse_key_ring(secret).signing_key
    except ValueError as error:
        return _fail(f"GRIDCAST_AUTH_SECRET: {error}", 1)
    now = int(time.time())
    if options.life > settings.auth_max_token_life:
        return _fail(f"--life is at most {settings.auth_max_token_life:g} seconds", 2)
    claims = {
        "sub": options.subject,
        "aud": settings.auth_audience,
        "iat": now,
        "exp": now + options.life,
        "jti": secrets.token_urlsafe(12),
        settings.auth_scope_claim: " ".join(options.scope),
    }
    if settings.auth_issuer:
        claims["iss"] = settings.auth_issuer
    sys.stdout.write(f"{mint_token(key, claims)}\n")
    return 0


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"gridcast: {text}\n")
    return code


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.token",
        description="Makes a token of the mode hs256.",
        epilog=f"Rights: {' '.join(sorted(VERBS))}; with a folder or a topic: read:films/* listen:room/1",
    )
    parser.add_argument("subject", help="who the token is for")
    parser.add_argument("scope", nargs="+", type=_scope_words, help="rights, as words or in one argument")
    parser.add_argument(
        "--life", type=int, default=DEFAULT_LIFE_SECONDS, metavar="SECONDS", help="default %(default)s, at most a day"
    )
    options = parser.parse_args(arguments)
    if not options.subject or options.life < 1:
        parser.error("the subject must not be empty, and --life is at least 1")
    return options


def _scope_words(text: str) -> str:
    """Refuse words that would grant nothing: a typing error should not become a token."""
    for word in text.split():
        verb = next((verb for verb in VERBS if word.partition(":")[0] == verb), None)
        if verb is None or not parse_scope(word).may_somewhere(verb):
            raise argparse.ArgumentTypeError(f"{word!r} grants nothing")
    return text


if __name__ == "__main__":
    sys.exit(main())
