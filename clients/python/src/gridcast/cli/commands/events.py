"""`gridcast listen` and `gridcast push`."""

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from gridcast._bus.events import MAX_EVENT_BYTES
from gridcast.cli.connection import ServerChoice, find_connection, output_options, server_options
from gridcast.cli.exit_codes import ExitCode
from gridcast.cli.output import CommandOutput, printable
from gridcast.values import EventGap, ReceivedEvent


@click.command()
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@click.option(
    "--type", "types", metavar="TYPE", multiple=True, help="Print events of this type alone; may be given again."
)
@click.option("--count", "-n", type=click.IntRange(1), help="End after this number of events.")
@click.option("--ack", is_flag=True, help="Acknowledge each event that was printed.")
@server_options
@output_options
def listen(
    topics: tuple[str, ...],
    *,
    types: tuple[str, ...],
    count: int | None,
    ack: bool,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Print events to all, to this client and to TOPICs, until Ctrl-C.

    It reconnects and resumes by itself. Where events may be missing it says so: on stderr, and with --json as {"gap": reason}.
    """
    with find_connection(server).client() as client, client.listen(*topics) as events:
        output.note(f"sid {events.sid}")
        printed = 0
        for item in events:
            if isinstance(item, EventGap):
                if output.is_json:
                    output.line(json.dumps({"gap": item.reason}))
                else:
                    output.note(f"gap: {printable(item.reason)}; the sid is {events.sid}")
                continue
            if types and item.type not in types:
                continue
            output.record(_describe(item), asdict(item))
            if ack:
                events.ack(item)
            printed += 1
            if printed == count:
                return ExitCode.OK
    return ExitCode.OK


def _describe(event: ReceivedEvent) -> str:
    topic = f" {event.topic}" if event.topic else ""
    data = json.dumps(event.data, ensure_ascii=False)
    return printable(f"{event.time or '-'} {event.source} {event.type}{topic} {data}")


@click.command()
@click.argument("type", metavar="TYPE")
@click.argument("data", required=False, default="null")
@click.option("--sid", metavar="SID", help="To one client.")
@click.option("--topic", metavar="TOPIC", help="To the subscribers of a topic.")
@click.option("--all", "to_all", is_flag=True, help="To every client.")
@click.option(
    "--id", "event_id", metavar="ID", help="The id of the event: with the same one it is pushed once in four minutes."
)
@click.option("--wait", type=click.FloatRange(0, 30), metavar="SECONDS", help="Wait for the client's ack; with --sid.")
@server_options
@output_options
def push(
    type: str,  # noqa: A002  # the attribute's name in CloudEvents
    data: str,
    *,
    sid: str | None,
    topic: str | None,
    to_all: bool,
    event_id: str | None,
    wait: float | None,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Push an event: DATA is JSON, or - for standard input. Prints the receipt."""
    if (sid is not None) + (topic is not None) + to_all != 1:
        raise click.UsageError("give one of --sid, --topic and --all")
    if wait is not None and sid is None:
        raise click.UsageError("--wait needs --sid")
    document = _parse_data(data)
    with find_connection(server).client() as client:
        if sid is not None:
            receipt = client.send(sid, type, document, id=event_id, wait=wait)
        elif topic is not None:
            receipt = client.publish(topic, type, document, id=event_id)
        else:
            receipt = client.broadcast(type, document, id=event_id)
    duplicate = " (a duplicate: nothing was pushed now)" if receipt.duplicate else ""
    output.record(f"{receipt.status} {receipt.id}{duplicate}", asdict(receipt))
    return ExitCode.OK


def _parse_data(text: str) -> Any:
    if text == "-":
        text = sys.stdin.buffer.read(MAX_EVENT_BYTES + 1).decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError("DATA is not JSON; a text needs quotes of its own, as '\"hello\"'") from None
