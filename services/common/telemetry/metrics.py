"""All Prometheus metrics of all processes, and the server of /metrics.

They are declared in one file, so that there is one place to look. Labels have few values: the template of a route,
never a path; a status. Counting costs a microsecond, so it is always on; the port is only opened if it is set.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, cast
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from services.common.telemetry.fast_metrics import FastCounter, FastHistogram

DURATION_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""From a range in memory to the upload of a film."""

HTTP_REQUESTS = FastCounter(
    "gridcast_http_requests_total", "HTTP requests by method, route and status", ["method", "route", "status"]
)
HTTP_REQUEST_DURATION = FastHistogram(
    "gridcast_http_request_duration_seconds",
    "HTTP request duration from the request line to the last byte of the response",
    ["method", "route"],
    DURATION_BUCKETS_SECONDS,
)
HTTP_REQUESTS_IN_FLIGHT = Gauge("gridcast_http_requests_in_flight", "HTTP requests in progress")
HTTP_REQUEST_BODY_BYTES = FastCounter("gridcast_http_request_body_bytes_total", "Bytes received in request bodies")
HTTP_RESPONSE_BODY_BYTES = FastCounter("gridcast_http_response_body_bytes_total", "Bytes sent in response bodies")

UPLOAD_REQUESTS = Counter(
    "gridcast_upload_requests_total", "Requests with file data by protocol and outcome", ["protocol", "outcome"]
)
UPLOAD_REQUESTS_IN_FLIGHT = Gauge("gridcast_upload_requests_in_flight", "Upload requests being received")
STORED_BYTES = Counter("gridcast_stored_bytes_total", "Bytes written to the store")
FILE_CHANGES = Counter(
    "gridcast_file_changes_total", "Files that were deleted, moved or restored by requests", ["change"]
)
PLAYABLE_UPLOADS = Counter(
    "gridcast_playable_uploads_total", "Uploads with a socket by the layout of their bytes", ["layout"]
)
UPLOAD_TAKEOVERS = Counter("gridcast_upload_takeovers_total", "Unfinished uploads whose lease passed to another writer")
GC_DELETED_FILES = Counter("gridcast_gc_deleted_files_total", "Files deleted by the garbage collector", ["kind"])
GC_RUNS = Counter("gridcast_gc_runs_total", "Garbage collection runs by outcome", ["outcome"])

WEBHOOK_TRIES = Counter(
    "gridcast_webhook_tries_total", "Tries to deliver a webhook, by endpoint and verdict", ["endpoint", "verdict"]
)
WEBHOOK_WAITING = Gauge("gridcast_webhook_waiting", "Deliveries that wait for a try", ["endpoint"])
WEBHOOK_OLDEST_SECONDS = Gauge("gridcast_webhook_oldest_seconds", "Age of the oldest waiting delivery", ["endpoint"])
WEBHOOK_DEAD = Gauge("gridcast_webhook_dead", "Deliveries without success after all tries", ["endpoint"])
WEBHOOK_DELAY = Histogram(
    "gridcast_webhook_delay_seconds",
    "Time from the relay of an event to the answer of the endpoint that accepted it",
    buckets=DURATION_BUCKETS_SECONDS,
)
UPLOAD_HOOK_CALLS = Counter(
    "gridcast_upload_hook_calls_total", "Uploads that the upload hook was asked about", ["outcome"]
)

CACHE_LOOKUPS = FastCounter("gridcast_cache_lookups_total", "Cache lookups by cache and outcome", ["cache", "outcome"])
BLOCK_CACHE_BYTES = Gauge("gridcast_block_cache_bytes", "Bytes in the block cache")
LIVE_STREAMS = Gauge("gridcast_live_streams", "Live streams whose lists are in memory")
LIVE_WAITING = Gauge("gridcast_live_waiting", "Requests that wait for the next segment of a live stream")
LIVE_SEGMENT_CACHE_BYTES = Gauge("gridcast_live_segment_cache_bytes", "Bytes in the cache of live segments")
LIVE_RELOADS = Counter(
    "gridcast_live_reloads_total", "Requests that waited for the next segment of a live stream, by outcome", ["outcome"]
)
UPLOAD_PLAYERS = Gauge("gridcast_upload_players", "Responses that follow an upload that is not complete")
UPLOAD_PLAYER_RESPONSES = Counter(
    "gridcast_upload_player_responses_total", "Responses by a play address, by how they ended", ["outcome"]
)
CORRUPT_FILES = Counter(
    "gridcast_corrupt_files_total", "Responses aborted because stored chunks were missing or corrupt"
)
DAMAGED_FILES = Counter(
    "gridcast_damaged_files_total", "Times that the garbage collector has found a file missing or of a wrong length"
)

WEBSOCKET_CONNECTIONS = Gauge("gridcast_websocket_connections", "Open WebSocket connections")
WEBSOCKET_FRAMES_SENT = Counter(
    "gridcast_websocket_frames_sent_total", "Frames written or queued for WebSocket clients"
)
WEBSOCKET_SERVER_DISCONNECTS = Counter(
    "gridcast_websocket_server_disconnects_total", "WebSocket connections closed by the server, by close code", ["code"]
)
WEBSOCKET_FRAMES_DROPPED = Counter(
    "gridcast_websocket_frames_dropped_total", "Frames dropped because the client was too slow"
)
QUOTA_REFUSALS = Counter(
    "gridcast_quota_refusals_total", "Uploads refused because of the quota of their owner", ["limit"]
)
PUSHES = Counter("gridcast_pushes_total", "Pushes by delivery status", ["status"])
REDIS_SUBSCRIPTION_UP = Gauge(
    "gridcast_redis_subscription_up", "1 while the Redis subscription is confirmed", ["subscription"]
)
REDIS_SUBSCRIPTION_RECONNECTS = Counter(
    "gridcast_redis_subscription_reconnects_total", "Reconnects of the Redis subscription", ["subscription"]
)

WEBSOCKET_TUNNELS = Gauge("gridcast_websocket_tunnels", "Open WebSocket tunnels")
UPSTREAM_RETRIES = Counter(
    "gridcast_upstream_retries_total", "Requests that failed before a response and may be retried", ["upstream"]
)
UPSTREAM_EJECTIONS = Counter(
    "gridcast_upstream_ejections_total", "Upstream hosts ejected after a failure", ["upstream"]
)
UPSTREAM_HOSTS = Gauge("gridcast_upstream_hosts", "Known upstream hosts", ["upstream"])
UPSTREAM_ERRORS = Counter(
    "gridcast_upstream_errors_total", "Requests that the gateway ended with 502, 503 or 504", ["upstream", "status"]
)
REQUESTS_REJECTED = Counter(
    "gridcast_requests_rejected_total", "Requests and WebSocket handshakes rejected by a limit or a rule", ["reason"]
)

_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def record_http_request(
    method: str, route: str, status: int, duration_seconds: float, bytes_received: int, bytes_sent: int
) -> None:
    """Count one HTTP request. All unknown methods share the label value `other`."""
    if method not in _KNOWN_METHODS:
        method = "other"
    HTTP_REQUESTS.counts[method, route, status] += 1
    HTTP_REQUEST_DURATION.observe((method, route), duration_seconds)
    if bytes_received:
        HTTP_REQUEST_BODY_BYTES.counts[()] += bytes_received
    if bytes_sent:
        HTTP_RESPONSE_BODY_BYTES.counts[()] += bytes_sent


def start_metrics_server(
    host: str, port: int, allows_host: Callable[[str], bool] = lambda _host: True
) -> tuple[WSGIServer, threading.Thread]:
    """Serve /metrics in a thread of its own, so that it works while the event loop is busy. Raises OSError if the port is taken.

    `allows_host` judges the Host of each request: 421 where it returns False.
    """
    server, thread = start_http_server(port, addr=host)
    serve_metrics = cast("Callable[..., Iterable[bytes]]", server.get_app())

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if allows_host(environ.get("HTTP_HOST", "localhost")):
            return serve_metrics(environ, start_response)
        start_response("421 Misdirected Request", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"this host name is not allowed in Host: GRIDCAST_ALLOWED_HOSTS lists those that are\n"]

    server.set_app(serve)
    return server, thread
