"""The rules that a media playlist must keep (draft-pantos-hls-rfc8216bis, 4.4 and 6.2), with `m3u8` as a second opinion."""

import datetime as dt
import itertools
import re
from dataclasses import dataclass, field

import m3u8

_DATE_TOLERANCE_SECONDS = 0.1


@dataclass
class Entry:
    """One segment of a list with the tags in front of it."""

    uri: str
    seconds: float
    lines: list[str]
    map: str = ""
    date: float | None = None
    discontinuity: bool = False


@dataclass
class Listing:
    """A parsed list."""

    tags: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    skipped: int = 0
    ended: bool = False

    @property
    def target(self) -> int:
        return int(self.tags["TARGETDURATION"])

    @property
    def sequence(self) -> int:
        return int(self.tags.get("MEDIA-SEQUENCE", "0"))


def check_playlist(text: str, *, overlong: bool = False) -> Listing:
    """Return the parsed list; an AssertionError names the rule that it breaks. `overlong`: fragments exceed the target."""
    listing = _parse(text)
    tags, target = listing.tags, listing.target
    kind = tags.get("PLAYLIST-TYPE", "")
    assert kind in {"", "EVENT", "VOD"}
    assert kind != "VOD" or listing.ended, "a VOD list has an end"
    assert kind == "" or listing.sequence == 0, "an EVENT list never loses its first segment"
    assert kind or listing.ended or "DISCONTINUITY-SEQUENCE" in tags, "a sliding list counts its discontinuities"
    if not overlong:
        assert all(int(entry.seconds + 0.5) <= target for entry in listing.entries), "EXTINF above TARGETDURATION"
    total = sum(entry.seconds for entry in listing.entries)
    assert listing.ended or listing.skipped or total + 1e-6 >= 3 * target, "a live list is at least three targets long"
    control = dict(re.findall(r"([A-Z-]+)=([^,]+)", tags.get("SERVER-CONTROL", "")))
    if "HOLD-BACK" in control:
        assert float(control["HOLD-BACK"]) >= 3 * target, "players stay three targets behind"
    if "CAN-SKIP-UNTIL" in control:
        assert float(control["CAN-SKIP-UNTIL"]) >= 6 * target, "the skip boundary is six targets from the end"
    if listing.skipped:
        assert int(tags["VERSION"]) >= 9, "EXT-X-SKIP needs version 9"
        assert not listing.ended, "directives are ignored after the end"
        assert total + 1e-6 >= float(control["CAN-SKIP-UNTIL"]), "segments inside the skip boundary are not skipped"
    _check_entries(listing)
    _ask_m3u8(text, listing)
    return listing


def check_reload(old: str, new: str, *, overlong: bool = False) -> None:
    """Check that `new` may follow `old` at the same address (section 6.2.1)."""
    before, after = check_playlist(old, overlong=overlong), check_playlist(new, overlong=overlong)
    for tag in ("TARGETDURATION", "PLAYLIST-TYPE", "VERSION"):
        assert before.tags.get(tag) == after.tags.get(tag), f"{tag} has changed"
    assert not before.ended or old == new, "a list with an end does not change"
    assert after.sequence >= before.sequence
    assert after.sequence + len(after.entries) >= before.sequence + len(before.entries), "segments left at the end"
    by_number = {before.sequence + index: entry for index, entry in enumerate(before.entries)}
    for index, entry in enumerate(after.entries):
        known = by_number.get(after.sequence + index)
        assert known is None or (known.uri, known.seconds) == (entry.uri, entry.seconds), "a segment has changed"
    if before.tags.get("PLAYLIST-TYPE"):
        lines = [line for entry in before.entries for line in entry.lines]
        assert [line for entry in after.entries for line in entry.lines][: len(lines)] == lines, "only append"
    else:
        left = before.entries[: after.sequence - before.sequence]
        moved = sum(entry.discontinuity for entry in left)
        kept = after.entries[:1]
        if len(left) < len(before.entries) and before.entries[len(left)].discontinuity and not kept[0].discontinuity:
            moved += 1
        steps = int(after.tags["DISCONTINUITY-SEQUENCE"]) - int(before.tags["DISCONTINUITY-SEQUENCE"])
        assert steps == moved or not kept or not by_number.get(after.sequence), "discontinuities are counted wrongly"


def apply_delta(old: str, delta: str) -> str:
    """Return the whole list that a client has after a delta update."""
    before, after = _parse(old), _parse(delta)
    if not after.skipped:
        return delta
    lines = [line for entry in before.entries[: after.skipped] for line in entry.lines]
    assert len(before.entries) >= after.skipped, "skips what the client has not seen"
    head, _, rest = delta.partition(f"#EXT-X-SKIP:SKIPPED-SEGMENTS={after.skipped}\n")
    return head + "\n".join(lines) + "\n" + rest


def _check_entries(listing: Listing) -> None:
    current_map = ""
    clock: float | None = None
    for index, entry in enumerate(listing.entries):
        first = index == 0 and not listing.skipped
        assert not first or (entry.map and entry.date), "MAP and PROGRAM-DATE-TIME in front of the first segment"
        assert not entry.discontinuity or entry.map, "a DISCONTINUITY without its own MAP"
        assert not entry.discontinuity or entry.date, "a DISCONTINUITY without its date"
        assert not entry.map or entry.discontinuity or first or entry.map == current_map, "MAP without DISCONTINUITY"
        current_map = entry.map or current_map
        if entry.date is not None and clock is not None:
            assert entry.date >= clock - _DATE_TOLERANCE_SECONDS, "dates go back"
            assert entry.discontinuity or entry.date <= clock + 1 + _DATE_TOLERANCE_SECONDS, "dates leave the media"
        clock = (entry.date or clock or 0) + entry.seconds if entry.date or clock else None
    uris = [entry.uri for entry in listing.entries]
    assert len(uris) == len(set(uris)), "an address twice"


def _ask_m3u8(text: str, listing: Listing) -> None:
    other = m3u8.loads(text)
    assert len(other.segments) == len(listing.entries)
    assert other.target_duration == listing.target
    assert (other.media_sequence or 0) == listing.sequence
    assert bool(other.is_endlist) == listing.ended
    for mine, theirs in itertools.zip_longest(listing.entries, other.segments):
        assert (mine.uri, mine.seconds, mine.discontinuity) == (theirs.uri, theirs.duration, theirs.discontinuity)


def _parse(text: str) -> Listing:
    assert text.endswith("\n"), "every line has an end"
    lines = text.splitlines()
    assert lines[0] == "#EXTM3U"
    listing, pending = Listing(), Entry("", -1, [])
    for line in lines[1:]:
        assert not listing.ended, "ENDLIST is last"
        assert line, "no empty lines"
        tag, _, value = line.removeprefix("#EXT-X-").partition(":")
        if not line.startswith("#"):
            assert pending.seconds >= 0, "an address without EXTINF"
            pending.uri = line
            pending.lines.append(line)
            listing.entries.append(pending)
            pending = Entry("", -1, [])
        elif line == "#EXT-X-ENDLIST":
            listing.ended = True
        elif tag == "SKIP":
            assert not listing.entries
            listing.skipped = int(value.removeprefix("SKIPPED-SEGMENTS="))
        elif line.startswith("#EXTINF:"):
            pending.seconds = float(line.removeprefix("#EXTINF:").removesuffix(","))
            pending.lines.append(line)
        elif tag in {"MAP", "PROGRAM-DATE-TIME", "DISCONTINUITY"}:
            pending.lines.append(line)
            pending.discontinuity |= tag == "DISCONTINUITY"
            pending.map = value if tag == "MAP" else pending.map
            if tag == "PROGRAM-DATE-TIME":
                pending.date = dt.datetime.fromisoformat(value).timestamp()
        else:
            assert not listing.entries, f"{tag} behind a segment"
            assert tag not in listing.tags, f"{tag} twice"
            listing.tags[tag] = value
    assert not pending.lines, "tags without a segment"
    return listing
