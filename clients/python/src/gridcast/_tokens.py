"""Where the token comes from: a text, or a callback that is asked again before the token expires and once after a 401."""

import base64
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from gridcast.errors import InvalidRequest

Token: TypeAlias = str | Callable[[], str] | None
AsyncToken: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]] | None
RENEW_BEFORE_SECONDS = 30.0
UNKNOWN_LIFE_SECONDS = 60.0


def check_token(token: str) -> str:
    """Return the token without white space around it. Raises InvalidRequest for what no header field can hold."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequest("the token is empty or has characters that no token has")
    return token


class TokenCache:
    """The last token of a callback, and until when it is used: 30 s before its `exp` where it is a JWT, else for a minute."""

    def __init__(self, token: str | Callable[..., object] | None) -> None:
        self._callback = None if token is None or isinstance(token, str) else token
        self._value = check_token(token) if isinstance(token, str) else None
        self._valid_until = 0.0

    @property
    def is_fixed(self) -> bool:
        """Whether there is no callback."""
        return self._callback is None

    @property
    def value(self) -> str | None:
        """The token that is valid, None where one has to be asked for."""
        return self._value if self.is_fixed or time.time() < self._valid_until else None

    def ask(self) -> object:
        """Call the callback: the result is a token, or an awaitable of one."""
        return self._callback() if self._callback is not None else None

    def store(self, token: object) -> str:
        """Keep what the callback returned."""
        if not isinstance(token, str):
            raise InvalidRequest("the token callback did not return a string")
        self._value = check_token(token)
        now = time.time()
        expiry = _expiry(self._value)
        self._valid_until = now + UNKNOWN_LIFE_SECONDS if expiry is None else expiry - RENEW_BEFORE_SECONDS
        return self._value

    def get(self, *, renew: bool) -> str | None:
        """Return the token, asking a blocking callback where necessary."""
        if self.is_fixed or (not renew and self.value is not None):
            return self.value
        answer = self.ask()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise InvalidRequest("an asynchronous token callback is for AsyncClient")
        return self.store(answer)

    async def get_async(self, *, renew: bool) -> str | None:
        """Return the token, awaiting the callback where necessary."""
        if self.is_fixed or (not renew and self.value is not None):
            return self.value
        answer = self.ask()
        return self.store(await answer if inspect.isawaitable(answer) else answer)


def _expiry(token: str) -> float | None:
    """The `exp` of a JWT (RFC 7519, 4.1.4), unverified: only to know when to ask again."""
    try:
        payload = token.split(".")[1]
        expiry = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return float(expiry) if isinstance(expiry, int | float) else None
