"""`gridcast hooks`: endpoints of webhooks, deliveries, replays."""

from dataclasses import asdict
from datetime import datetime

import click

from gridcast.cli.connection import ServerChoice, find_connection, output_options, server_options
from gridcast.cli.exit_codes import ExitCode
from gridcast.cli.output import CommandOutput, format_duration, printable
from gridcast.values import DeliveryInfo, EndpointInfo

_DELIVERY_STATES = click.Choice(["waiting", "done", "dead"])
_REPLAYED_STATES = click.Choice(["done", "dead"])


@click.group()
def hooks() -> None:
    """Administer webhooks: the token needs the right `admin`."""


@hooks.command("ls")
@server_options
@output_options
def list_endpoints(*, server: ServerChoice, output: CommandOutput) -> int:
    """List the endpoints and their queues."""
    with find_connection(server).client() as client:
        for endpoint in client.webhook_endpoints():
            output.record(_describe_endpoint(endpoint), _endpoint_document(endpoint))
    return ExitCode.OK


@hooks.command("add")
@click.argument("endpoint_id", metavar="ID")
@click.argument("address", metavar="URL")
@click.option("--event", "events", metavar="TYPE", multiple=True, help="As file.created or file.*; else all.")
@click.option("--folder", "folders", metavar="FOLDER", multiple=True, help="With all below it; else all.")
@click.option("--ordered", is_flag=True, help="The events of one file one after another.")
@server_options
@output_options
def add_endpoint(
    endpoint_id: str,
    address: str,
    *,
    events: tuple[str, ...],
    folders: tuple[str, ...],
    ordered: bool,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Add an endpoint, and print its secret, which is shown once."""
    with find_connection(server).client() as client:
        added = client.add_webhook_endpoint(
            endpoint_id, address, events=events or ("*",), folders=folders, ordered=ordered
        )
    output.record(added.secret or "", {**_endpoint_document(added), "secret": added.secret})
    return ExitCode.OK


@hooks.command("rm")
@click.argument("endpoint_id", metavar="ID")
@server_options
@output_options
def remove_endpoint(endpoint_id: str, *, server: ServerChoice, output: CommandOutput) -> int:
    """Remove an endpoint that was added here; its waiting deliveries are dead."""
    with find_connection(server).client() as client:
        client.remove_webhook_endpoint(endpoint_id)
    output.record(f"removed {printable(endpoint_id)}", {"id": endpoint_id, "status": "removed"})
    return ExitCode.OK


@hooks.command("activate")
@click.argument("endpoint_id", metavar="ID")
@server_options
@output_options
def activate_endpoint(endpoint_id: str, *, server: ServerChoice, output: CommandOutput) -> int:
    """Let an endpoint that has answered 410 get events again."""
    with find_connection(server).client() as client:
        client.activate_webhook_endpoint(endpoint_id)
    output.record(f"activated {printable(endpoint_id)}", {"id": endpoint_id, "status": "active"})
    return ExitCode.OK


@hooks.command("deliveries")
@click.option("--endpoint", metavar="ID", help="Of this endpoint.")
@click.option("--state", type=_DELIVERY_STATES, help="In this state.")
@click.option("--limit", "-n", type=click.IntRange(1, 200), default=50, show_default=True, help="How many.")
@server_options
@output_options
def list_deliveries(
    *, endpoint: str | None, state: str | None, limit: int, server: ServerChoice, output: CommandOutput
) -> int:
    """List deliveries with their last answers, those of the newest events first."""
    with find_connection(server).client() as client:
        for delivery in client.webhook_deliveries(endpoint, state=state, limit=limit):  # type: ignore[arg-type]
            output.record(_describe_delivery(delivery), _delivery_document(delivery))
    return ExitCode.OK


@hooks.command("replay")
@click.argument("delivery_id", metavar="[DELIVERY]", required=False)
@click.option("--endpoint", metavar="ID", help="All of this endpoint.")
@click.option("--state", type=_REPLAYED_STATES, help="In this state.")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"]), help="Created then or later."
)
@click.option("--until", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"]), help="Created before.")
@server_options
@output_options
def replay(
    delivery_id: str | None,
    *,
    endpoint: str | None,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Send deliveries again: one by its id, or those of an endpoint, a state and a time."""
    chosen = [one for one in (endpoint, state, since, until) if one is not None]
    if bool(delivery_id) == bool(chosen):
        raise click.UsageError("give a DELIVERY, or some of --endpoint, --state, --since and --until")
    with find_connection(server).client() as client:
        count = client.replay_webhooks(id=delivery_id, endpoint=endpoint, state=state, since=since, until=until)  # type: ignore[arg-type]
    output.record(f"{count} sent again", {"replayed": count})
    return ExitCode.OK


def _describe_endpoint(endpoint: EndpointInfo) -> str:
    state = "ended" if endpoint.ended else "active"
    queue = f"{endpoint.waiting} waiting" + (
        f" ({format_duration(endpoint.oldest_seconds)})" if endpoint.waiting else ""
    )
    return printable(f"{endpoint.id:<16} {state:<7} {queue}, {endpoint.dead} dead  {endpoint.url}")


def _endpoint_document(endpoint: EndpointInfo) -> dict[str, object]:
    document = asdict(endpoint)
    del document["secret"]
    return document


def _describe_delivery(delivery: DeliveryInfo) -> str:
    answer = f"{delivery.status or ''} {delivery.error}".strip() or "-"
    return printable(
        f"{delivery.created_at:%Y-%m-%d %H:%M:%S} {delivery.state:<7} {delivery.endpoint:<16} {delivery.type:<14} "
        f"{delivery.failures} failed  {answer}  {delivery.id}"
    )


def _delivery_document(delivery: DeliveryInfo) -> dict[str, object]:
    return {
        **asdict(delivery),
        "created_at": delivery.created_at.isoformat(),
        "next_at": delivery.next_at.isoformat(),
    }
