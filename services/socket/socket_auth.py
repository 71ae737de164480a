"""Who a connection belongs to, and what it may hear: the rights of one WebSocket. Without authentication everything is allowed."""

import base64
import secrets
from collections.abc import Iterable, Mapping

from gridcast._bus.keys import REVOCATIONS_KEY
from services.common.asgi import Scope
from services.common.auth.authorization import missing_right
from services.common.auth.credentials import drop_socket_token, find_socket_token
from services.common.auth.factory import Auth
from services.common.auth.identity import Identity
from services.common.auth.revocations import Revocation, decode_revocations
from services.common.auth.rights import user_topic
from services.common.auth.route_rules import WEBSOCKET_RULE
from services.common.bus.redis import RedisClient
from services.common.errors import BadRequest
from services.socket.sessions import hash_secret


class SocketAuth:
    """The authentication of WebSockets. `auth` is None where it is off; then every identity is None."""

    def __init__(self, auth: Auth | None) -> None:
        self._auth = auth

    @property
    def enabled(self) -> bool:
        """Whether authentication is on."""
        return self._auth is not None

    async def identify(self, scope: Scope) -> Identity | None:
        """Return the identity of a handshake, and drop its token. Raises Unauthorized, InsufficientScope and BadRequest."""
        if self._auth is None:
            return None
        token = find_socket_token(scope["headers"], scope["subprotocols"])
        drop_socket_token(scope)
        identity = await self._auth.authenticator.authenticate_or_fetch(token)
        verb = WEBSOCKET_RULE.verb
        if verb is not None and not identity.rights.may_somewhere(verb):
            raise missing_right(identity, verb)
        return identity

    async def verify(self, token: str) -> Identity:
        """Return the identity of a token that a client sent to renew its own. Raises InvalidToken and BadRequest."""
        if self._auth is None:
            raise BadRequest("authentication is off: a token is not needed")
        return await self._auth.authenticator.authenticate_or_fetch(token)

    def check_current(self, identity: Identity) -> None:
        """Raise InvalidToken where the token or its subject was revoked since it was verified."""
        if self._auth is not None:
            self._auth.authenticator.check_revoked(identity)

    def new_sid(self, identity: Identity | None) -> str:
        """Return a new sid: 52 characters of base32, unique, and impossible to guess."""
        if self._auth is None or identity is None:
            return new_sid()
        return self._auth.sids.new_sid(identity.subject)


def new_sid() -> str:
    """Return a new sid without a subject: 32 random bytes in base32 without padding."""
    return base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=")


def hash_resume_secret(secret: str, identity: Identity | None) -> str:
    """Return what Redis keeps of a resume secret. It is bound to the subject: no other one can resume the session."""
    subject = "" if identity is None else identity.subject
    return hash_secret(f"{secret}\0{subject}" if subject else secret)


def topics_of_subject(identity: Identity | None) -> tuple[str, ...]:
    """Return the topics that a connection joins by itself."""
    topic = None if identity is None else user_topic(identity.subject)
    return () if topic is None else (topic,)


def may_subscribe(identity: Identity | None, topic: str) -> bool:
    """Return whether a connection may hear a topic."""
    return identity is None or identity.rights.may_topic("listen", topic) or topic in topics_of_subject(identity)


def require_topics(identity: Identity | None, topics: Iterable[str]) -> None:
    """Raise InsufficientScope, or Unauthorized for an anonymous caller, where a topic may not be heard."""
    for topic in topics:
        if identity is not None and not may_subscribe(identity, topic):
            raise missing_right(identity, "listen", topic)


def allowed_topics(identity: Identity | None, topics: Mapping[str, int]) -> dict[str, int]:
    """Return those of the topics that may be heard."""
    return {topic: since for topic, since in topics.items() if may_subscribe(identity, topic)}


async def read_revocations(redis: RedisClient) -> list[Revocation] | None:
    """Return what the upload service has written of the store's revocations; None where Redis has lost it. Raises ValueError."""
    found = await redis.execute("GET", REVOCATIONS_KEY)
    return None if found is None else decode_revocations(found)
