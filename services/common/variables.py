"""The names of all `GRIDCAST_*` environment variables, over all processes, and the check that refuses any other.

One environment is often shared: `make run` and a compose file hand the same variables to every process, so a process cannot refuse
what only another one reads. A name that no process reads is a typing error or an old name, and would be ignored in silence.
"""

from collections.abc import Iterable

PREFIX = "GRIDCAST_"

VARIABLES = frozenset(
    {
        "GRIDCAST_ALLOWED_HOSTS",
        "GRIDCAST_ALLOWED_MEDIA_TYPES",
        "GRIDCAST_ALLOWED_ORIGINS",
        "GRIDCAST_AUTH",
        "GRIDCAST_AUTH_ALLOW_OPEN",
        "GRIDCAST_AUTH_ANONYMOUS_SCOPE",
        "GRIDCAST_AUTH_AUDIENCE",
        "GRIDCAST_AUTH_DEFAULT_SCOPE",
        "GRIDCAST_AUTH_ISSUER",
        "GRIDCAST_AUTH_JWKS_ALLOW_HTTP",
        "GRIDCAST_AUTH_JWKS_URL",
        "GRIDCAST_AUTH_MAX_TOKEN_LIFE",
        "GRIDCAST_AUTH_SCOPE_CLAIM",
        "GRIDCAST_AUTH_SECRET",
        "GRIDCAST_BLOCK_CACHE_SIZE",
        "GRIDCAST_CLIENT_BODY_TIMEOUT",
        "GRIDCAST_COMMIT_TIMEOUT",
        "GRIDCAST_CONNECT_TIMEOUT",
        "GRIDCAST_DATABASE_URL",
        "GRIDCAST_FILES_DIR",
        "GRIDCAST_GC_INTERVAL",
        "GRIDCAST_HANDSHAKE_RATE",
        "GRIDCAST_HOST",
        "GRIDCAST_LEASE_TTL",
        "GRIDCAST_LINK_LIFE",
        "GRIDCAST_LIVE_BODY_TIMEOUT",
        "GRIDCAST_LIVE_GRACE",
        "GRIDCAST_LIVE_INTAKE_FACTOR",
        "GRIDCAST_LIVE_INTERRUPTED_AFTER",
        "GRIDCAST_LIVE_MAX_BYTES",
        "GRIDCAST_LIVE_MAX_DURATION",
        "GRIDCAST_LIVE_MAX_MESSAGES",
        "GRIDCAST_LIVE_MAX_PUBLISHERS",
        "GRIDCAST_LIVE_MAX_RATE",
        "GRIDCAST_LIVE_MAX_STREAMS_PER_OWNER",
        "GRIDCAST_LIVE_SEGMENTS",
        "GRIDCAST_LIVE_SEGMENT_CACHE_SIZE",
        "GRIDCAST_LIVE_STREAMS",
        "GRIDCAST_LIVE_TARGET_DURATION",
        "GRIDCAST_LIVE_TOKEN_TTL",
        "GRIDCAST_LIVE_URLS",
        "GRIDCAST_LIVE_WAITING",
        "GRIDCAST_LIVE_WAITING_PER_STREAM",
        "GRIDCAST_LOG_LEVEL",
        "GRIDCAST_MAX_BODY_SIZE",
        "GRIDCAST_MAX_BYTES_PER_OWNER",
        "GRIDCAST_MAX_CONCURRENT_UPLOADS",
        "GRIDCAST_MAX_CONNECTIONS",
        "GRIDCAST_MAX_CONNECTIONS_PER_SUBJECT",
        "GRIDCAST_MAX_FILE_SIZE",
        "GRIDCAST_MAX_TOPICS_PER_CONNECTION",
        "GRIDCAST_MAX_TUNNELS",
        "GRIDCAST_MAX_TUNNELS_PER_CLIENT",
        "GRIDCAST_MAX_UNFINISHED_UPLOADS_PER_OWNER",
        "GRIDCAST_MAX_UPLOADS_PER_CLIENT",
        "GRIDCAST_MESSAGE_RATE",
        "GRIDCAST_METADATA_CACHE_ENTRIES",
        "GRIDCAST_METRICS_PORT",
        "GRIDCAST_MIN_FREE_SPACE",
        "GRIDCAST_MIN_UPLOAD_RATE",
        "GRIDCAST_MONGODB_DATABASE",
        "GRIDCAST_MONGODB_DRIVER",
        "GRIDCAST_MONGODB_URI",
        "GRIDCAST_PING_INTERVAL",
        "GRIDCAST_PORT",
        "GRIDCAST_PUBLIC_ADDRESS",
        "GRIDCAST_REDIS_URL",
        "GRIDCAST_REQUEST_RATE_PER_CLIENT",
        "GRIDCAST_RESPONSE_HEADER_TIMEOUT",
        "GRIDCAST_SECOND_PURGE_DELAY",
        "GRIDCAST_SEND_TIMEOUT",
        "GRIDCAST_SHUTDOWN_TIMEOUT",
        "GRIDCAST_SOCKET_URLS",
        "GRIDCAST_STORE",
        "GRIDCAST_STREAM_URLS",
        "GRIDCAST_TOMBSTONE_TTL",
        "GRIDCAST_TRUSTED_PROXIES",
        "GRIDCAST_UNFINISHED_UPLOAD_TTL",
        "GRIDCAST_UPLOAD_HOOK",
        "GRIDCAST_UPLOAD_RATE_WINDOW",
        "GRIDCAST_UPLOAD_URLS",
        "GRIDCAST_WEBHOOKS",
        "GRIDCAST_UPSTREAM_IDLE_TIMEOUT",
    }
)
"""Every variable that some process reads; `NAME_FILE` names a file that holds the value of `NAME`."""

CLIENT_VARIABLES = frozenset(
    {"GRIDCAST_DEBUG", "GRIDCAST_PROFILE", "GRIDCAST_TOKEN", "GRIDCAST_TOKEN_FILE", "GRIDCAST_URL"}
)
"""Variables of the command `gridcast`. No process of the server reads them, and each accepts them: one shell may run both."""

RENAMED = {
    "GRIDCAST_ADMISSIONS": "GRIDCAST_HANDSHAKE_RATE",
    "GRIDCAST_ANSWER_SECONDS": "GRIDCAST_RESPONSE_HEADER_TIMEOUT",
    "GRIDCAST_CACHE_BYTES": "GRIDCAST_BLOCK_CACHE_SIZE",
    "GRIDCAST_CACHE_NAMES": "GRIDCAST_METADATA_CACHE_ENTRIES",
    "GRIDCAST_CONNECT_SECONDS": "GRIDCAST_CONNECT_TIMEOUT",
    "GRIDCAST_DRAIN": "GRIDCAST_SHUTDOWN_TIMEOUT",
    "GRIDCAST_GRACE": "GRIDCAST_TOMBSTONE_TTL",
    "GRIDCAST_JANITOR_EVERY": "GRIDCAST_GC_INTERVAL",
    "GRIDCAST_LATE": "GRIDCAST_SECOND_PURGE_DELAY",
    "GRIDCAST_LEASE": "GRIDCAST_LEASE_TTL",
    "GRIDCAST_MAX_BODY": "GRIDCAST_MAX_BODY_SIZE",
    "GRIDCAST_MAX_SOCKETS": "GRIDCAST_MAX_CONNECTIONS",
    "GRIDCAST_MAX_TOPICS": "GRIDCAST_MAX_TOPICS_PER_CONNECTION",
    "GRIDCAST_MAX_UPLOAD": "GRIDCAST_MAX_FILE_SIZE",
    "GRIDCAST_MAX_UPLOADS": "GRIDCAST_MAX_CONCURRENT_UPLOADS",
    "GRIDCAST_MEDIA_TYPES": "GRIDCAST_ALLOWED_MEDIA_TYPES",
    "GRIDCAST_MIN_FREE": "GRIDCAST_MIN_FREE_SPACE",
    "GRIDCAST_MIN_RATE": "GRIDCAST_MIN_UPLOAD_RATE",
    "GRIDCAST_MONGO_DRIVER": "GRIDCAST_MONGODB_DRIVER",
    "GRIDCAST_PATIENCE": "GRIDCAST_SEND_TIMEOUT",
    "GRIDCAST_PING": "GRIDCAST_PING_INTERVAL",
    "GRIDCAST_RATE": "GRIDCAST_REQUEST_RATE_PER_CLIENT",
    "GRIDCAST_RATE_WINDOW": "GRIDCAST_UPLOAD_RATE_WINDOW",
    "GRIDCAST_READER_SECONDS": "GRIDCAST_SEND_TIMEOUT",
    "GRIDCAST_SENDER_SECONDS": "GRIDCAST_CLIENT_BODY_TIMEOUT",
    "GRIDCAST_SERVICE_SECONDS": "GRIDCAST_UPSTREAM_IDLE_TIMEOUT",
    "GRIDCAST_STORE_SECONDS": "GRIDCAST_COMMIT_TIMEOUT",
    "GRIDCAST_UPLOAD_EXPIRY": "GRIDCAST_UNFINISHED_UPLOAD_TTL",
}
"""Old names, as they were until 26 November 2026, and the names that replace them."""


class UnknownVariableError(ValueError):
    """An environment variable with our prefix that no process reads."""


def check_names(names: Iterable[str]) -> None:
    """Refuse environment variables that begin with `GRIDCAST_` and are not settings.

    Args:
        names: the names of all environment variables of this process.

    Raises:
        UnknownVariableError: with one sentence for each such variable, that gives the new name where the variable was renamed.

    """
    faults = [fault for name in sorted(names) if name.startswith(PREFIX) and (fault := _fault(name)) is not None]
    if faults:
        raise UnknownVariableError("; ".join(faults))


def _fault(name: str) -> str | None:
    base = name.removesuffix("_FILE")
    if base in VARIABLES or name in VARIABLES or name in CLIENT_VARIABLES:
        return None
    suffix = name[len(base) :]
    if base in RENAMED:
        return f"{name} was renamed to {RENAMED[base]}{suffix}"
    return f"{name} is not a setting of Gridcast; docs/operations.md lists them"
