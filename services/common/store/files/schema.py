"""The tables. Times are milliseconds since 1970, of leases and expiries by the lease clock (`clock`), else by the database's clock.

    store             one row: store_id (which folder belongs to this database), latest and skew (the lease clock), touched
    media             one row for each name: the name (null for an upload without one), the revision, and the current version:
                      file_id, length, content_type, sha256, etag, uploaded_at, metadata; null where readers see no file;
                      identity: the id of its file, null where it is the row's own, until a file has moved
    uploads           unfinished uploads, with their fencing token, lease, expiry, offset, metadata and client, the SHA-256 of the
                      secret in their ids, and the bytes that are reserved for them
    finished_uploads  outcomes of uploads that had a TTL
    tombstones        files to delete, from `due` on; `second_purge`: twice; of the file that was deleted last under a name also
                      all that is known of it
    outbox            events to publish, in the order of their revisions; `told`: it was published; `unrelayed`: its deliveries are
                      not stored yet; `previous`: folder, filename and revision before a move, as a JSON list
    deliveries        of webhooks, each event once for each endpoint: `body` as it is sent, the time of the next try, and claims
    webhook_endpoints  what the API has made (`definition`, JSON with secrets), and what has ended
    live              streams: `definition` (JSON) as it was created, `position` (JSON), the bytes that are pending, and `step`,
                      which orders the calls of writers; file_id is that of the upload, or of the file that it has become;
                      `recordings` (JSON), null where it has one file: those before the last one, and its first fencing token
    live_segments     of streams; those behind the position's `last_segment` do not count
    live_epochs       of streams, with their initialisation segments; those from `epoch_count` on do not count
    live_messages     of streams, by number, with their media time; `data` is JSON, `size_in_all` its length and that of all before
    posters           small pictures of files, by the id of the bytes: they go wherever these go. `poster` of a version is the tag
    revision_floors   the greatest revision of all names of a bucket whose rows were deleted
    quotas            how many bytes the current files of an owner have, null where that is not counted
    revocations       tokens, subjects and links that are refused, links that were prolonged or used: the UTF-8 bytes of their
                      names, which may hold any character, and Unix times in seconds

`search_name` is the filename as a search compares it. `owner` is the subject in UTF-8, for the same reason as the names of
revocations; null where there is none. Text is compared and ordered by its bytes.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData()

_TEXT_TYPE = Text().with_variant(Text(collation="C"), "postgresql")
_ID_TYPE = String(24).with_variant(String(24, collation="C"), "postgresql")
_KEY_TYPE = String(96).with_variant(String(96, collation="C"), "postgresql")


def _version_columns(*, nullable: bool) -> list[Column[object]]:
    """The columns that describe one version of a file."""
    return [
        Column("file_id", _ID_TYPE, nullable=nullable),
        Column("length", BigInteger, nullable=nullable),
        Column("content_type", _TEXT_TYPE, nullable=nullable),
        Column("sha256", String(64)),
        Column("etag", _TEXT_TYPE, nullable=nullable),
        Column("uploaded_at", BigInteger, nullable=nullable),
        Column("metadata", _TEXT_TYPE, nullable=nullable),
        Column("media_facts", _TEXT_TYPE),
        Column("poster", _TEXT_TYPE),
    ]


VERSION_FIELDS = (
    "file_id",
    "length",
    "content_type",
    "sha256",
    "etag",
    "uploaded_at",
    "metadata",
    "media_facts",
    "poster",
    "owner",
)
"""The names of the columns that describe one version of a file."""

store = Table(
    "store",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("store_id", _ID_TYPE, nullable=False),
    Column("latest", BigInteger, nullable=False),
    Column("skew", BigInteger, nullable=False),
    Column("touched", BigInteger, nullable=False),
)

media = Table(
    "media",
    metadata,
    Column("id", _ID_TYPE, primary_key=True),
    Column("folder", _TEXT_TYPE),
    Column("filename", _TEXT_TYPE),
    Column("search_name", _TEXT_TYPE),
    Column("revision", BigInteger, nullable=False),
    *_version_columns(nullable=True),
    Column("identity", _ID_TYPE),
    Column("owner", LargeBinary),
    UniqueConstraint("folder", "filename", name="media_name"),
)
_current = media.c.uploaded_at.is_not(None)
Index(
    "media_newest",
    media.c.uploaded_at,
    media.c.id,
    media.c.search_name,
    sqlite_where=_current,
    postgresql_where=_current,
)
Index(
    "media_newest_in_folder",
    media.c.folder,
    media.c.uploaded_at,
    media.c.id,
    media.c.search_name,
    sqlite_where=_current,
    postgresql_where=_current,
)
_moved = media.c.identity.is_not(None)
Index("media_identity", media.c.identity, sqlite_where=_moved, postgresql_where=_moved)
Index("media_by_name", media.c.filename, media.c.id, sqlite_where=_current, postgresql_where=_current)
Index(
    "media_by_size",
    media.c.length,
    media.c.id,
    media.c.search_name,
    sqlite_where=_current,
    postgresql_where=_current,
)
Index(
    "media_by_size_in_folder",
    media.c.folder,
    media.c.length,
    media.c.id,
    media.c.search_name,
    sqlite_where=_current,
    postgresql_where=_current,
)
_owned = media.c.owner.is_not(None)
Index("media_owner", media.c.owner, media.c.length, sqlite_where=_owned, postgresql_where=_owned)
Index("media_file", media.c.file_id, unique=True, sqlite_where=_current, postgresql_where=_current)

uploads = Table(
    "uploads",
    metadata,
    Column("id", _ID_TYPE, primary_key=True),
    Column("media_id", _ID_TYPE, ForeignKey("media.id"), nullable=False, index=True),
    Column("file_id", _ID_TYPE, nullable=False, unique=True),
    Column("client", _TEXT_TYPE, nullable=False),
    Column("fencing_token", BigInteger, nullable=False),
    Column("lease_until", BigInteger),
    Column("expires_at", BigInteger, nullable=False),
    Column("lifetime", BigInteger),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger),
    Column("metadata", _TEXT_TYPE, nullable=False),
    Column("secret_digest", String(64)),
    Column("owner", LargeBinary),
    Column("reserved", BigInteger, nullable=False, server_default="0"),
)
_owned_upload = uploads.c.owner.is_not(None)
Index("uploads_owner", uploads.c.owner, sqlite_where=_owned_upload, postgresql_where=_owned_upload)
Index("uploads_due", uploads.c.expires_at, uploads.c.id)

finished_uploads = Table(
    "finished_uploads",
    metadata,
    Column("id", _ID_TYPE, primary_key=True),
    Column("media_id", _ID_TYPE, ForeignKey("media.id"), nullable=False, index=True),
    Column("file_id", _ID_TYPE, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("etag", _TEXT_TYPE),
    Column("metadata", _TEXT_TYPE, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("secret_digest", String(64)),
    Column("owner", LargeBinary),
)

Index("finished_uploads_due", finished_uploads.c.until, finished_uploads.c.id)

tombstones = Table(
    "tombstones",
    metadata,
    Column("file_id", _ID_TYPE, primary_key=True),
    Column("media_id", _ID_TYPE, ForeignKey("media.id"), nullable=False, index=True),
    Column("due", BigInteger, nullable=False),
    Column("second_purge", Boolean, nullable=False),
    Column("length", BigInteger),
    Column("content_type", _TEXT_TYPE),
    Column("sha256", String(64)),
    Column("etag", _TEXT_TYPE),
    Column("uploaded_at", BigInteger),
    Column("metadata", _TEXT_TYPE),
    Column("media_facts", _TEXT_TYPE),
    Column("poster", _TEXT_TYPE),
    Column("owner", LargeBinary),
)

Index("tombstones_due", tombstones.c.due, tombstones.c.file_id)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _ID_TYPE, primary_key=True),
    Column("media_id", _ID_TYPE, ForeignKey("media.id"), nullable=False),
    Column("type", String(32), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("told", Boolean, nullable=False),
    Column("unrelayed", Boolean, nullable=False, server_default=false()),
    *_version_columns(nullable=False),
    Column("identity", _ID_TYPE),
    Column("previous", _TEXT_TYPE),
    Column("owner", LargeBinary),
    Column("previous_owner", LargeBinary),
)
Index("outbox_order", outbox.c.media_id, outbox.c.revision)
Index("outbox_due", outbox.c["at"], outbox.c.id)

posters = Table(
    "posters",
    metadata,
    Column("file_id", _ID_TYPE, primary_key=True),
    Column("etag", _TEXT_TYPE, nullable=False),
    Column("content_type", _TEXT_TYPE, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

revision_floors = Table(
    "revision_floors",
    metadata,
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("floor", BigInteger, nullable=False),
)

quotas = Table(
    "quotas",
    metadata,
    Column("owner", LargeBinary, primary_key=True),
    Column("stored", BigInteger),
)

revocations = Table(
    "revocations",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("value", LargeBinary, primary_key=True),
    Column("before", Double, nullable=False),
    Column("until", Double, nullable=False, index=True),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _KEY_TYPE, primary_key=True),
    Column("event_id", _ID_TYPE, nullable=False),
    Column("endpoint_id", _KEY_TYPE, nullable=False),
    Column("media_id", _ID_TYPE, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("event_type", String(128), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", String(8), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("fencing_token", BigInteger, nullable=False),
    Column("status", Integer),
    Column("error", _TEXT_TYPE, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)
Index("deliveries_next", deliveries.c.endpoint_id, deliveries.c.state, deliveries.c.next_at, deliveries.c.id)
Index("deliveries_order", deliveries.c.endpoint_id, deliveries.c.media_id, deliveries.c.revision)
Index("deliveries_state", deliveries.c.state, deliveries.c.id)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", _KEY_TYPE, primary_key=True),
    Column("definition", _TEXT_TYPE),
    Column("is_ended", Boolean, nullable=False),
)

live = Table(
    "live",
    metadata,
    Column("id", _KEY_TYPE, primary_key=True),
    Column("upload_id", _ID_TYPE, nullable=False),
    Column("file_id", _ID_TYPE, nullable=False, index=True),
    Column("owner", LargeBinary, nullable=False),
    Column("definition", _TEXT_TYPE, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", _TEXT_TYPE, nullable=False),
    Column("publisher", _TEXT_TYPE, nullable=False),
    Column("fencing_token", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("position", _TEXT_TYPE, nullable=False),
    Column("last_segment", BigInteger, nullable=False),
    Column("epoch_count", Integer, nullable=False),
    Column("pending", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("advanced_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("idle_since", BigInteger, nullable=False),
    Column("revision", BigInteger),
    Column("recordings", _TEXT_TYPE),
)
Index("live_state", live.c.state, live.c.id)
Index("live_owner", live.c.owner, live.c.state, live.c.id)

live_segments = Table(
    "live_segments",
    metadata,
    Column("stream_id", _KEY_TYPE, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("duration", BigInteger, nullable=False),
    Column("timescale", BigInteger, nullable=False),
    Column("date", Double, nullable=False),
    Column("is_key", Boolean, nullable=False),
)

live_epochs = Table(
    "live_epochs",
    metadata,
    Column("stream_id", _KEY_TYPE, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("init", LargeBinary, nullable=False),
    Column("timescale", BigInteger, nullable=False),
    Column("base_time", BigInteger, nullable=False),
    Column("file_time", BigInteger, nullable=False),
    Column("date", Double, nullable=False),
)

live_messages = Table(
    "live_messages",
    metadata,
    Column("stream_id", _KEY_TYPE, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("message_id", _TEXT_TYPE, nullable=False),
    Column("milliseconds", BigInteger, nullable=False),
    Column("type", _TEXT_TYPE, nullable=False),
    Column("data", _TEXT_TYPE, nullable=False),
    Column("size_in_all", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("date", Double, nullable=False),
)
Index("live_messages_id", live_messages.c.stream_id, live_messages.c.message_id, unique=True)
Index("live_messages_place", live_messages.c.stream_id, live_messages.c.milliseconds, live_messages.c.number)
