"""The fixtures that every test may request, and the modules of tests/support that hold what tests share.

Modules with fixtures (loaded here as plugins):

file_order         the order of the files of a run
assert_rewriting   the assertions of test modules, rewritten by one worker for all
databases          mongod, redis_server (session), dedicated_mongod, dedicated_redis, database_name, redis_url,
                   prepared_databases, mongo
postgresql         postgresql (session), postgresql_database
migrated_databases migrated_postgresql, create_migrated_sqlite (session): databases with tables
store_adapters     adapters: every store, one after another, for the contract tests
processes          start_service; shows the log of every running service with a failed test
opened_stores      stores: new stores of the kinds that a test names
media_library      media_services (module): an upload and a stream service on one database
stack              stack (session): `python -m deploy.local` with two stream and two socket replicas
live_client        live, live_settings, live_env (module); a publisher of the live service
live_changes       pair: two replicas of the live service, of which one can be held in a change of files
upload_client      upload, upload_settings, env (module), inspector; requests and a tus client for the upload service
scripted_upstream  upstream, gateway, short_timeout_gateway (module); HTTP requests to the gateway
websocket_client   single_replica, two_replicas (module); a WebSocket client that resumes
videos             ffmpeg, sample_videos (session)
client_package     client_environment (session): the wheel of the client in an environment of its own
client_shells      shell: both clients of the package, one after the other
container_samples  container_samples (session): small files of every container, and ffprobe
npm                npm (session): npm packages, installed once in a run
chromium           browser (module): Chromium, driven by WebDriver; run_chromium with other flags

Modules to import from:

client_model         a model of the server for flows of the client
clock_events         numbered events to everyone, to one sid and to a topic
compose_project      a compose project with its containers
counting_proxy       a TCP proxy that counts bytes
fault_history        uploads while processes are killed and paused, with a check of the store at the end
fault_proxy          a TCP proxy that delays, holds back or cuts traffic
fork_server          forks of processes that have imported the modules of services; the workers share them
in_process_server    our HTTP server in a thread of the test
js_client            the JavaScript client in node_modules, and Node programs that speak JSON lines
media_names          any legal name of a file, awkward ones, and paths that are refused
node_program         a program on Node that reads and writes JSON lines
numeric_hosts        hosts of forbidden addresses in every spelling
open_file_limit      the descriptor limit of the test process
process_stats        memory, CPU time and descriptors of a process
raw_sockets          exact bytes over TCP
recording_sink       a client connection without a socket
redis_commands       inline commands to Redis and Sentinel
redis_programs       the Redis servers of this machine, and which one the tests use
replica_set          three mongod as a replica set
scenarios            scenarios on Node in one Chromium, by Playwright
shared_folders       make_once: a folder that one process of the run fills for all of them
sizes                MIB, CHUNK_SIZE, BATCH_SIZE
small_service        a minimal ASGI application on our server, as a process
socket_replica_pair  a gateway before two socket replicas
stock_server         one of our applications under stock uvicorn, as a process
store_inspectors     the content of a store read and changed directly, the same for every store
tls_contexts         one TLS context for all clients of httpx
traffic              uploads, reads and pushes in the background, with a log of their results
upload_history       uploads under faults, and a check of the store against their results
waiting              eventually, eventually_async
webhook_receiver     receivers of webhooks that record, and answer as told
websocket_load       many WebSocket clients in one process
"""

import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support import redis_programs
from tests.support.tls_contexts import share_tls_context

redis_programs.apply_choice()
share_tls_context()

# Processes that tests start import the client of this tree, as pytest does by `pythonpath`.
CLIENT_SOURCE = str(Path(__file__).parents[1] / "clients/python/src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [CLIENT_SOURCE, os.environ.get("PYTHONPATH")]))

# A shell's background job ignores SIGINT, and so does what it starts: tests send Ctrl-C to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

pytest_plugins = [
    "tests.support.file_order",
    "tests.support.assert_rewriting",
    "tests.support.processes",
    "tests.support.client_package",
    "tests.support.npm",
    "tests.support.databases",
    "tests.support.postgresql",
    "tests.support.migrated_databases",
    "tests.support.store_adapters",
    "tests.support.media_library",
    "tests.support.opened_stores",
    "tests.support.stack",
    "tests.support.upload_client",
    "tests.support.videos",
    "tests.support.container_samples",
    "tests.support.fragmented_mp4",
    "tests.support.live_client",
    "tests.support.live_changes",
    "tests.support.chromium",
    "tests.support.scripted_upstream",
    "tests.support.websocket_client",
    "tests.support.client_shells",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Look for no garbage among thousands of tests that stay, neither while they are collected nor afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the services run."""
    return "asyncio"
