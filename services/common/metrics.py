"""The catalogue of what operators see as numbers (Prometheus), and the port they are read from.

Every metric of every process stands here, so that a dashboard has one place to look. Labels have few values: a route's template,
never a path; a status. Counting costs a microsecond, so it is always on; the port is opened where it is set.
"""

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Gauge, start_http_server

from services.common.tallies import Durations, Tally

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""From a range out of memory to the upload of a film."""

REQUESTS = Tally("gridcast_http_requests_total", "HTTP requests answered", ["method", "route", "status"])
REQUEST_SECONDS = Durations("gridcast_http_request_seconds", "From head to last byte", ["method", "route"], SECONDS)
REQUESTS_OPEN = Gauge("gridcast_http_requests_in_flight", "HTTP requests under way")
RECEIVED_BYTES = Tally("gridcast_http_received_bytes_total", "Bytes of request bodies")
SENT_BYTES = Tally("gridcast_http_sent_bytes_total", "Bytes of answers' bodies")

UPLOADS = Counter("gridcast_uploads_total", "Requests that bring bytes, by what became of them", ["way", "outcome"])
UPLOADS_OPEN = Gauge("gridcast_uploads_in_flight", "Uploads being received")
STORED_BYTES = Counter("gridcast_stored_bytes_total", "Bytes written into the store")
TAKEOVERS = Counter("gridcast_upload_takeovers_total", "Uploads that another writer took over")
JANITOR_REMOVED = Counter("gridcast_janitor_removed_total", "What the janitor removed", ["what"])
JANITOR_ROUNDS = Counter("gridcast_janitor_rounds_total", "Rounds of the janitor", ["outcome"])

CACHE_READS = Tally("gridcast_cache_reads_total", "Blocks and names asked of the caches", ["cache", "outcome"])
CACHE_BYTES = Gauge("gridcast_cache_bytes", "Bytes held by the block cache")
BROKEN_FILES = Counter("gridcast_broken_files_total", "Answers cut because stored bytes were missing or misshapen")

SOCKETS = Gauge("gridcast_sockets", "WebSockets open on this replica")
FRAMES_SENT = Counter("gridcast_socket_frames_total", "Frames handed to sockets")
SOCKETS_CLOSED = Counter("gridcast_sockets_closed_total", "WebSockets closed by us", ["code"])
FRAMES_DROPPED = Counter("gridcast_socket_frames_dropped_total", "Frames that a slow socket did not get")
PUSHES = Counter("gridcast_pushes_total", "Pushes by receipt", ["status"])
SUBSCRIPTION_LIVE = Gauge("gridcast_subscription_live", "1 while the Redis subscription is live", ["heard"])
RESUBSCRIPTIONS = Counter("gridcast_resubscriptions_total", "Times the Redis subscription was opened anew", ["heard"])

TUNNELS = Gauge("gridcast_tunnels", "WebSocket tunnels open")
RETRIES = Counter(
    "gridcast_upstream_retries_total", "Requests broken off before an answer that may be sent again", ["upstream"]
)
EJECTIONS = Counter("gridcast_upstream_ejections_total", "Replicas put aside after a failure", ["upstream"])
REPLICAS = Gauge("gridcast_upstream_replicas", "Replicas that are known", ["upstream"])
UPSTREAM_ERRORS = Counter("gridcast_upstream_errors_total", "Answers that no replica gave", ["upstream", "status"])
REFUSED = Counter("gridcast_refused_total", "Requests and sockets refused at the door", ["why"])

open_requests = 0
"""What REQUESTS_OPEN shows; the front counts it."""
REQUESTS_OPEN.set_function(lambda: open_requests)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request(method: str, route: str, status: int, seconds: float, received: int, sent: int) -> None:
    """One HTTP request was answered. What a client invents as a method is one value."""
    if method not in _METHODS:
        method = "other"
    REQUESTS.counts[method, route, status] += 1
    REQUEST_SECONDS.observe((method, route), seconds)
    if received:
        RECEIVED_BYTES.counts[()] += received
    if sent:
        SENT_BYTES.counts[()] += sent


def listen(host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serve /metrics in a thread of its own, so that a busy event loop can still be looked at. Raises OSError."""
    return start_http_server(port, addr=host)
