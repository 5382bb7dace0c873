"""What is committed of a job, as values: handoffs, clips, and the takes of its segments. No I/O."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from tasks.errors import RecordError
from tasks.jobs.records import ClipRecord, Handoff, Record
from tasks.jobs.units import segments_text

SEED_STEP = 1_000_003  # a prime, larger than the number of segments: seeds of segments are consecutive
SEED_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class TakeRequest(Record):
    """What was asked for of a take in one segment. None: the segment's prompt, and a seed of its own.

    first, last: its segments, of a take of several neighbours, which is chosen whole; None: of one.
    """

    prompt: str | None = None
    seed: int | None = None
    first: int | None = None
    last: int | None = None

    def prompt_and_seed(self, prompt: str, seed: int, number: int) -> tuple[str, int]:
        """The prompt and seed of take `number` of a segment that has these."""
        own_seed = (seed + SEED_STEP * number) % SEED_LIMIT if self.seed is None else self.seed
        return self.prompt if self.prompt is not None else prompt, own_seed


@dataclass(frozen=True, slots=True)
class Take:
    """A take of a committed segment. number: from 1; 0 is what the chain rendered, here only with its clip.

    Of a take of several segments, each has one of these. made, clip: once it is rendered; the clip is not crossfaded.
    failed: why it is not there, and will not be.
    """

    segment: int
    number: int
    request: TakeRequest = TakeRequest()
    made: Handoff | None = None
    clip: ClipRecord | None = None
    failed: str | None = None

    @property
    def segments(self) -> range:
        """Those of the whole take."""
        first, last = self.request.first, self.request.last
        return range(self.segment if first is None else first, 1 + (self.segment if last is None else last))

    def __str__(self) -> str:
        return f"take {self.number} of {segments_text(self.segments)}"


@dataclass(frozen=True, slots=True)
class Takes:
    """The takes of a job's segments, by segment and number. shown: the one that the film shows, where it is not 0."""

    takes: Mapping[tuple[int, int], Take] = field(default_factory=dict)
    shown: Mapping[int, int] = field(default_factory=dict)

    def of(self, segment: int) -> list[Take]:
        """The takes of a segment in order, without take 0."""
        return [take for (index, number), take in sorted(self.takes.items()) if index == segment and number]

    def whole(self, take: Take) -> list[Take]:
        """The take in each of its segments."""
        return [self.takes[index, take.number] for index in take.segments if (index, take.number) in self.takes]

    def is_rendered(self, take: Take) -> bool:
        """Whether a take other than 0 is rendered in all of its segments."""
        return all(one.made for one in self.whole(take))

    def handoff(self, original: Handoff, take: int | None = None) -> Handoff:
        """The handoff of a take of the segment with this original; None: of the one that the film shows.

        Raises:
            RecordError: it is not rendered.
        """
        number = self.shown.get(original.index, 0) if take is None else take
        known = self.takes.get((original.index, number)) if number else None
        made = known.made if known else original if number == 0 else None
        if made is None:
            raise RecordError(f"take {number} of segment {original.index} is not rendered")
        return made

    def first(self, count: int) -> Takes:
        """The rendered takes of the first `count` segments. One that goes on behind them is cut there, if shown."""
        made = {}
        for (index, number), take in self.takes.items():
            goes_on = take.segments[-1] >= count
            is_missing = number > 0 and not self.is_rendered(take)
            if index >= count or is_missing or (goes_on and self.shown.get(index, 0) != number):
                continue
            made[index, number] = replace(take, request=replace(take.request, last=count - 1)) if goes_on else take
        return Takes(made, {index: take for index, take in self.shown.items() if index < count})

    def needed(self, handoffs: Sequence[Handoff], stored: Container[str]) -> Takes:
        """The takes that the film shows or that one of these segments continues, and those whose end they lead into.

        With clips only that are `stored`.
        """
        keys = [*self.shown.items(), *((handoff.index - 1, handoff.from_take) for handoff in handoffs)]
        found: dict[tuple[int, int], Take] = {}
        while keys:
            key = keys.pop()
            if key[1] and key in self.takes and key not in found:
                parts = self.whole(self.takes[key])
                found |= {(one.segment, one.number): one for one in parts}
                keys += [(one.segment, one.made.pinned_to) for one in parts if one.made and one.made.pinned_to > 0]
        whole = {
            key: take if take.clip and take.clip.blob_id in stored else replace(take, clip=None)
            for key, take in found.items()
        }
        return Takes(whole, self.shown)

    def fields(self) -> dict[str, bytes | int]:
        """The fields of the takes hash."""
        found: dict[str, bytes | int] = {f"{segment}:shown": number for segment, number in self.shown.items()}
        for (segment, number), take in sorted(self.takes.items()):
            name = f"{segment}:{number}"
            found |= {str(segment): number, name: take.request.pack()} if number else {}
            found |= {f"{name}:made": take.made.pack()} if take.made else {}
            found |= {f"{name}:clip": take.clip.pack()} if take.clip else {}
        return found

    @classmethod
    def read(cls, fields: Mapping[bytes, bytes]) -> Self:
        """The takes in the fields of a takes hash.

        Raises:
            ValueError: a field has another name. VersionError, RecordError: see `Record.unpack`.
        """
        takes: dict[tuple[int, int], dict[str, bytes]] = {}
        shown = {}
        for name, value in fields.items():
            segment, *rest = name.decode().split(":")
            if rest == ["shown"]:
                shown[int(segment)] = int(value)
            elif rest:
                parts = takes.setdefault((int(segment), int(rest[0])), {})
                parts[rest[1] if len(rest) > 1 else "request"] = value
        return cls({key: _take(*key, parts) for key, parts in takes.items()}, shown)


def _take(segment: int, number: int, parts: dict[str, bytes]) -> Take:
    known: dict[str, Any] = {
        "request": TakeRequest.unpack(parts["request"]) if "request" in parts else TakeRequest(),
        "made": Handoff.unpack(parts["made"]) if "made" in parts else None,
        "clip": ClipRecord.unpack(parts["clip"]) if "clip" in parts else None,
        "failed": parts["failed"].decode() if "failed" in parts else None,
    }
    return Take(segment, number, **known)


@dataclass(frozen=True, slots=True)
class Committed:
    """What is committed of a job's first segments: the state that it continues, if any, its handoffs, clips and takes.

    handoffs: one for each of these segments, in order. clips: by segment; some may be missing. ahead: the handoffs of
    segments that are committed behind the first one that is missing, in order. video_after: the video that the last
    segment of the job leads into, if any.
    """

    start: Handoff | None = None
    handoffs: tuple[Handoff, ...] = ()
    clips: Mapping[int, ClipRecord] = field(default_factory=dict)
    takes: Takes = field(default_factory=Takes)
    ahead: tuple[Handoff, ...] = ()
    video_after: Handoff | None = None

    @property
    def given(self) -> tuple[Handoff, ...]:
        """What the job was given: the state that it continues, and the video that it leads into."""
        return tuple(one for one in (self.start, self.video_after) if one is not None)

    @property
    def source_frames(self) -> int:
        """Frames that the film shows of the video that the job extends as a whole."""
        return sum(one.first_frame for one in self.given if one.source_clips)

    def handoff(self, index: int) -> Handoff | None:
        """What a segment left when it was rendered first; None: it is not committed."""
        if 0 <= index < len(self.handoffs):
            return self.handoffs[index]
        return next((handoff for handoff in self.ahead if handoff.index == index), None)

    def rendered(self, last: int | None = None) -> list[int]:
        """The committed segments, or those up to `last`."""
        found = (handoff.index for handoff in (*self.handoffs, *self.ahead))
        return [index for index in found if last is None or index <= last]

    def handed_on(self, index: int) -> Handoff:
        """The handoff after a segment: of the take that the next one continues, else of the one that the film shows."""
        return self.takes.handoff(self.handoffs[index], self.continued_take(index))

    def continued_take(self, index: int) -> int | None:
        """The take of a segment that the next one continues; None: there is no next one, or it is a new scene."""
        following = self.handoff(index + 1)
        return following.from_take if following is not None and following.continued else None

    def prevents(self, take: Take) -> int | None:
        """The segment for which the film cannot show a rendered take: it continues another one; None: it can.

        A take can be shown if the next segment continues it, or what it leads into. Of a shown take of several segments
        it may replace the first ones, if no segment continues another take of all of them.
        """
        last, pinned_to = take.segments[-1], take.made.pinned_to if take.made else -1
        if self.continued_take(last) not in (None, take.number, pinned_to):
            return last + 1
        shown = self.takes.shown.get(last, 0)
        at = self._segments(last, shown)[-1] if shown != take.number else last
        while at > last:
            first = self._segments(at, self.continued_take(at) or 0)[0]
            if first <= last:
                return at + 1
            at = first - 1
        return None

    def _segments(self, index: int, number: int) -> range:
        return self.takes.takes.get((index, number), Take(index, number)).segments

    def first(self, count: int) -> Committed:
        """The same of the first `count` segments; without a clip whose end shows a later one."""
        last = count - 1
        clips = {i: clip for i, clip in self.clips.items() if i < last or (i == last and clip.next_take == -1)}
        takes = self.takes.first(count)
        return replace(self, handoffs=self.handoffs[:count], clips=clips, takes=takes, ahead=())
