"""Pieces of a film for players that begin before it is finished: fragmented MP4, one piece per clip.

A piece has the pictures of its clip, copied, and AAC on the film's grid of 1024 samples. It is made from its own clip
and the clips before whose sound it needs (one, unless segments are very short), so any process makes the same bytes at
any time, and what follows may be unknown. Its sound ends before its pictures, because the next clip may change the last
100 ms or so.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.clip_streams import SoundReader, check_format, pictures
from ltx2.media.container import media_errors, open_clip, open_output
from ltx2.media.film import add_sound_stream, sound_frame
from ltx2.media.sound import composed
from ltx2.media.sources.slices import Blocks, Track
from ltx2.timeline import (
    FilmPart,
    SegmentTiming,
    SoundSpan,
    film_frames,
    film_samples,
    next_timing,
    sound_spans,
    start_after,
)

_BLOCK = 1024  # samples of an AAC packet
_LEAD = 16  # packets that are encoded and dropped: with 8 or fewer, joins can be heard
_WRITING = "cannot write the piece"


@dataclass(frozen=True, slots=True)
class LivePiece:
    """One piece. header: the same for all pieces of a film, to be played first. duration: seconds of its pictures."""

    header: bytes
    data: bytes
    duration: Fraction


def first_clips_needed(timings: Sequence[FilmPart], rate: int) -> list[int]:
    """For each piece the first clip whose sound it needs; usually the one before. rate: of the sound, in Hz.

    timings: of the film, from its first segment on.
    """
    spans = sound_spans(timings, rate)
    needed = []
    for index in range(len(timings)):
        start, clip = _lead_in(_first_packet(timings, spans, index, rate)), index
        while clip and spans[clip - 1].film_end > start:
            clip -= 1
        needed.append(clip)
    return needed


def live_piece(
    timings: Sequence[FilmPart],
    first: bytes,
    clips: Sequence[bytes],
    *,
    is_last: bool,
    track: Track | None = None,
    rate: int | None = None,
) -> LivePiece:
    """The piece of the last of `timings`.

    timings: of the film, up to the piece's own. first: the clip of the film's first segment, for the header. clips:
    those from its entry of `first_clips_needed` to the piece's own. is_last: whether the film ends with it.
    track: sound of the film that replaces that of the clips. rate: both as in `join_film`.

    Raises:
        MediaError: a clip is damaged, or differs from the first one or from its timing. TimelineError: the timings are
            not consecutive.
    """
    index, fps = len(timings) - 1, timings[-1].fps
    with open_clip(first) as model:
        any_rate, rate = rate is not None, rate or int(model.audio.sample_rate)
        extent = _extent(timings, rate, is_last=is_last)
        file = io.BytesIO()
        with open_output(file, _WRITING, _options(index, rate)) as container:
            with media_errors(_WRITING):
                video = container.add_stream_from_template(model.video, opaque=True)
                video.time_base = 1 / fps
                audio = add_sound_stream(container, rate, model.audio.channels)
            sounds = []
            for i, data in enumerate(clips, index + 1 - len(clips)):
                with open_clip(data) as clip:
                    check_format(clip, model.format, any_rate=any_rate)
                    sound = SoundReader(clip, extent.samples_of(i), rate)
                    packets = pictures(clip, timings[i].new_frames, fps, sound)
                    begin = timings[i].first_frame - timings[0].first_frame
                    for number, picture in enumerate(packets):
                        if i == index and number < timings[i].shown_frames:
                            _mux_picture(container, video, picture, begin + number, fps)
                    sounds.append(sound.samples())
            if track is None:
                block = composed(extent.spans[-len(clips) :], sounds, extent.start, extent.end)
            else:
                block = Blocks(track.at(rate, first=extent.start)).take(extent.end - extent.start)
            with media_errors(_WRITING):
                for packet in extent.encoded(audio, block):
                    container.mux(packet)
    header, data = _split(file.getvalue())
    return LivePiece(header, data, timings[index].shown_frames / fps)


@dataclass(frozen=True, slots=True)
class _Extent:
    """What a piece has of the film's sound.

    AAC packet n has the samples 1024 (n - 2) .. 1024 n, faded over half of it; packet 0 is not in any piece. The piece
    has the packets from `first` on, before `stop`; the encoder is given the samples from `start` to `end`.
    """

    spans: Sequence[SoundSpan]
    first: int
    stop: int
    start: int
    end: int
    is_last: bool

    def samples_of(self, i: int) -> int:
        """How much of segment i's decoded sound its span needs."""
        span = self.spans[i]
        return span.source_start + span.film_end - span.film_start

    def encoded(self, audio: AudioStream, block: NDArray[np.float32]) -> Iterator[Packet[AudioStream]]:
        """The piece's packets. block: the sound from `start` to `end`."""
        packets = audio.encode(sound_frame(block, audio.rate, 0))
        if self.is_last:  # flushed earlier, the encoder would take what follows for silence
            packets += audio.encode(None)
        number = self.start // _BLOCK
        if self.first < self.stop and number + len(packets) < self.stop:
            raise MediaError(f"the encoder returned {len(packets)} packets of sound, too few")
        for n, packet in enumerate(packets, number):
            if self.first <= n < self.stop:
                packet.pts = packet.dts = _BLOCK * (n - 1)
                packet.time_base = Fraction(1, audio.rate)
                yield packet


def _extent(timings: Sequence[FilmPart], rate: int, *, is_last: bool) -> _Extent:
    spans = sound_spans(timings, rate)
    samples = film_samples(film_frames(timings), timings[0].fps, rate)
    end = samples if is_last else _final_samples(timings[0], timings[-1], spans[-1], rate)
    first = _first_packet(timings, spans, len(timings) - 1, rate)
    stop = -(-samples // _BLOCK) + 1 if is_last else _final_packets(end)
    return _Extent(spans, first, stop, _lead_in(first), end, is_last)


def _first_packet(timings: Sequence[FilmPart], spans: Sequence[SoundSpan], index: int, rate: int) -> int:
    if not index:
        return 1
    return _final_packets(_final_samples(timings[0], timings[index - 1], spans[index - 1], rate))


def _lead_in(packet: int) -> int:
    """The sample from which on the encoder is given sound, for a piece that begins with this packet."""
    return _BLOCK * max(0, packet - _LEAD)


def _final_samples(first: FilmPart, last: FilmPart, span: SoundSpan, rate: int) -> int:
    """How many samples are known after a part. A cut leaves more of them than the continuation assumed here.

    first: the film's first part. span: that of the part `last`.
    """
    if not isinstance(last, SegmentTiming):  # the next one is crossfaded with it
        return film_samples(last.first_frame + last.shown_frames - first.first_frame, first.fps, rate)
    if last.video_after:
        return film_samples(last.first_frame + last.new_frames - last.video_after - first.first_frame, first.fps, rate)
    shape = replace(last.shape, overlap=last.tail_frames)
    following = next_timing(last, cut=last.next_dissolve > 0, shape=shape, dissolve=last.next_dissolve)
    return start_after(span, following, first, rate)


def _final_packets(samples: int) -> int:
    """How many packets are final when so many samples are: the encoder looks one block beyond a packet's samples."""
    return max(1, (samples - _BLOCK) // _BLOCK)


def _options(index: int, rate: int) -> dict[str, str]:
    """Options with which the muxer writes one fragment, at its film time."""
    return {
        "movflags": "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer",
        "use_editlist": "0",
        "avoid_negative_ts": "disabled",  # otherwise every piece begins at time 0
        "fragment_index": str(index + 1),
        "movie_timescale": str(rate),
    }


def _mux_picture(
    container: OutputContainer, video: VideoStream, picture: Packet[VideoStream], number: int, fps: Fraction
) -> None:
    picture.stream = video
    picture.time_base = 1 / fps
    picture.pts = picture.dts = number
    picture.duration = 1
    with media_errors(_WRITING):
        container.mux(picture)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """The boxes before the first fragment, and the fragment."""
    at = 0
    while data[at + 4 : at + 8] != b"moof":
        size = int.from_bytes(data[at : at + 4])
        if not size:
            raise MediaError("the piece has no fragment")
        at += size
    return data[:at], data[at:]
