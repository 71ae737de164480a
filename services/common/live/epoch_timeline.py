"""The time of the current epoch of a stream: from the sender's ticks to those of the file. Pure."""

from dataclasses import dataclass, field

from services.common.containers.fragments import TrackFragment
from services.common.live.fragment_reader import Fragment
from services.common.live.initialisation import InitSegment
from services.common.live.segments import Epoch

MAX_GAP_SECONDS = 1
"""A longer gap in the sender's time begins an epoch; one in another track than the main one, at the next key frame."""


def start_of(track: TrackFragment) -> int:
    """Return when a track of a fragment starts, in the sender's ticks."""
    return track.start or 0  # the reader refuses a track without one


@dataclass(slots=True)
class EpochTimeline:
    """The current epoch: `shifts` lead from the sender's time to the file's, by track; the next fragment is due at `expected`.

    `ends` are those of the other tracks that state durations; `breaks`: one of them had a gap, the next key frame begins an epoch.
    """

    init: InitSegment
    epoch: Epoch
    shifts: dict[int, int]
    expected: int
    last_duration: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    breaks: bool = False

    def file_time(self, ticks: int) -> int:
        """Return where a time of the main track is, in the file's ticks."""
        return self.epoch.file_time + ticks - self.epoch.base_time

    def date(self, file_time: int) -> float:
        """Return the Unix time of a time of the file."""
        return self.epoch.date + (file_time - self.epoch.file_time) / self.epoch.timescale

    def has_gap(self, fragment: Fragment) -> bool:
        """Return whether another track than the main one has a gap in front of a fragment."""
        return any(
            start_of(track) - self.ends[track.track_id] > MAX_GAP_SECONDS * self.init.tracks[track.track_id].timescale
            for track in fragment.tracks
            if track.track_id in self.ends
        )

    def place(self, track_id: int, ticks: int) -> int:
        """Return where a time of another track is, in the file's time."""
        return (ticks + self.shifts[track_id]) * self.init.timescale // self.init.tracks[track_id].timescale

    def others_end(self) -> int:
        """Return where the other tracks end, in the file's time; 0 where that is not known."""
        return max((self.place(track_id, end) for track_id, end in self.ends.items()), default=0)

    def note_ends(self, fragment: Fragment) -> None:
        """Note when the other tracks of a fragment end."""
        for track in fragment.tracks:
            if track.track_id == self.init.main_track:
                continue
            if track.duration:
                self.ends[track.track_id] = start_of(track) + track.duration
            else:
                self.ends.pop(track.track_id, None)
