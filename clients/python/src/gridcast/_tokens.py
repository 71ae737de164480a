"""Where the token comes from: a text, a file or a callback; both are asked again before the token expires and once after a 401."""

import base64
import inspect
import json
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from gridcast.errors import InvalidRequest

Token: TypeAlias = str | os.PathLike[str] | Callable[[], str] | None
AsyncToken: TypeAlias = str | os.PathLike[str] | Callable[[], str] | Callable[[], Awaitable[str]] | None
RENEW_BEFORE_SECONDS = 30.0
UNKNOWN_LIFE_SECONDS = 60.0
MAX_TOKEN_FILE_BYTES = 64 * 1024


def token_from_environment() -> str | Path | None:
    """Return the token of GRIDCAST_TOKEN, else the path that GRIDCAST_TOKEN_FILE names, else None: for the argument `token`."""
    token, path = os.environ.get("GRIDCAST_TOKEN"), os.environ.get("GRIDCAST_TOKEN_FILE")
    return token or (Path(path).expanduser() if path else None)


def read_token_file(path: Path) -> str:
    """Return the token in a file. Raises InvalidRequest, which never quotes the content."""
    try:
        with path.open("rb") as file:
            return check_token(file.read(MAX_TOKEN_FILE_BYTES).decode("ascii"))
    except OSError as error:
        raise InvalidRequest(f"the token file {path} cannot be read: {error.strerror}") from None
    except ValueError:  # InvalidRequest is one, as is a wrong encoding
        raise InvalidRequest(f"the token file {path} holds no token") from None


def check_token(token: str) -> str:
    """Return the token without white space around it. Raises InvalidRequest for what no header field can hold."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequest("the token is empty or has characters that no token has")
    return token


class TokenCache:
    """The last token of a file or callback, used until 30 s before its `exp` where it is a JWT, else for a minute."""

    def __init__(self, token: str | os.PathLike[str] | Callable[..., object] | None) -> None:
        if isinstance(token, os.PathLike):
            token = partial(read_token_file, Path(token))
        if not (token is None or isinstance(token, str) or callable(token)):
            raise InvalidRequest("a token is a text, the path of a file, or a function that returns one")
        self._callback = None if token is None or isinstance(token, str) else token
        self._value = check_token(token) if isinstance(token, str) else None
        self._valid_until = 0.0

    @property
    def is_fixed(self) -> bool:
        """Whether there is neither a file nor a callback."""
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
