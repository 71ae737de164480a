"""`gridcast link`: makes, prolongs and revokes signed links."""

import re
from dataclasses import asdict
from datetime import UTC, datetime

import click

from gridcast.cli.connection import ServerChoice, find_connection
from gridcast.cli.exit_codes import ExitCode
from gridcast.cli.options import output_options, server_options
from gridcast.cli.output import CommandOutput, printable
from gridcast.cli.places import name_in_errors, parse_place
from gridcast.values import SignedLink

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)


class Duration(click.ParamType[float]):
    """A number of seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no duration such as 90s, 15m, 6h or 7d", param, ctx)
        return float(int(match[1]) * _UNITS[match[2] or "s"])


@click.command()
@click.argument("places", metavar="PLACE...", nargs=-1)
@click.option("--expires", type=Duration(), metavar="TIME", help="Its life, as 90s, 15m, 6h, 7d.")
@click.option("--follow", is_flag=True, help="It also reads versions that replace this one.")
@click.option("--upload", "is_upload", is_flag=True, help="It uploads PLACE once, over tus, instead of reading it.")
@click.option("--max-size", type=click.IntRange(0), metavar="BYTES", help="With --upload: the largest file.")
@click.option("--type", "media_types", metavar="TYPE", multiple=True, help="With --upload: as image/png or video/*.")
@click.option("--prolong", metavar="ID", help="Let the link with this id end later; PLACE is then the link or its URL.")
@click.option("--revoke", metavar="ID", help="Revoke the link with this id.")
@server_options
@output_options
def link(
    places: tuple[str, ...],
    *,
    expires: float | None,
    follow: bool,
    is_upload: bool,
    max_size: int | None,
    media_types: tuple[str, ...],
    prolong: str | None,
    revoke: str | None,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Make links that read a file, or upload one, without a token. Prints their URLs.

    The id by which a link is prolonged or revoked is printed on stderr, and with --json.
    """
    if revoke is not None:
        if places or prolong:
            raise click.UsageError("--revoke ID needs nothing else")
        with find_connection(server).client() as client:
            client.revoke_link(revoke)
        output.record(f"revoked {printable(revoke)}", {"id": revoke, "status": "revoked"})
        return ExitCode.OK
    if not places:
        raise click.UsageError("give a PLACE, or --revoke ID")
    if prolong is not None:
        if len(places) != 1:
            raise click.UsageError("--prolong ID needs the link, or its URL")
        with find_connection(server).client() as client:
            _show(output, client.prolong_link(prolong, places[0], expires_in=expires))
        return ExitCode.OK
    if (max_size is not None or media_types) and not is_upload:
        raise click.UsageError("--max-size and --type need --upload")
    if follow and is_upload:
        raise click.UsageError("--follow is for links that read")
    for place in places:
        connection, path = parse_place(place, server)
        with connection.client() as client, name_in_errors(path):
            if is_upload:
                made = client.make_upload_link(path, expires_in=expires, max_size=max_size, media_types=media_types)
            else:
                made = client.make_link(path, expires_in=expires, follow=follow)
        _show(output, made)
    return ExitCode.OK


def _show(output: CommandOutput, made: SignedLink) -> None:
    end = datetime.fromtimestamp(made.expires_at, UTC)
    output.record(made.url, {**asdict(made), "expires_at": end.isoformat()})
    output.note(f"{printable(made.path)}: until {end:%Y-%m-%d %H:%M:%S} UTC; gridcast link --revoke {made.id}")
