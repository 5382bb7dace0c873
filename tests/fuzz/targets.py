"""Fuzz targets: one function for each parser of untrusted bytes.

A target passes its bytes to a parser, and ignores the errors that the parser documents. Any other exception is a fault.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from PIL import Image

from blobstore import BlobNotFoundError, InMemoryBlobStore
from blobstore.manifest import Manifest, NewerManifestError
from blobstore.redis.urls import RedisURLError, mask_urls, parse_url, shown_url
from ltx2.checkpoints.files.gguf_encoder import encoder_in_gguf, is_encoder
from ltx2.checkpoints.files.recognition import header_of, recognize
from ltx2.checkpoints.formats.gguf import ARCHITECTURE
from ltx2.checkpoints.formats.sentencepiece import read_sentencepiece
from ltx2.checkpoints.formats.vocabulary import read_vocabulary
from ltx2.checkpoints.hub_names import parse_hub_name
from ltx2.checkpoints.loras.file import read_lora
from ltx2.errors import CheckpointError, ContinuationError
from ltx2.media.picture_decoder import decode_picture
from ltx2.media.sources.excerpts import Wanted, decode_ending
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.whole import WantedParts, encode_parts
from ltx2.state.arrays import decode_frames, decode_tensor, unpack_frames
from ltx2.state.png import decode_png, png_size
from tasks.client.submissions.state_files import read_state, start_handoff
from tasks.errors import JobNotFoundError, MessageError, RecordError, SpecError, VersionError
from tasks.field_errors import is_shown
from tasks.jobs import state_wire
from tasks.jobs.queues import CLIPS, FILMS, SEGMENTS
from tasks.jobs.records import ClipRecord, FilmRecord, Handoff
from tasks.messaging.schema import check_entry
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, SEGMENT_TASK
from tasks.settings import Settings
from tasks.spec.loader import load_spec
from tasks.spec.schema import JobSpec
from tests.tasks.messaging import wire

Target = Callable[[bytes], None]

MOST_PIXELS = 2**20
TASKS = {SEGMENTS: SEGMENT_TASK, CLIPS: CLIP_TASK, FILMS: FILM_TASK}
QUEUES = (*TASKS, "reply.celery.pidbox", "/0.celery.pidbox", "/0.celeryev/worker.heartbeat")


def spec_yaml(data: bytes) -> None:
    """A spec in YAML, or in JSON that is recognised as such."""
    _spec(data, ".yaml")


def spec_json(data: bytes) -> None:
    """A spec in a file whose name says JSON."""
    _spec(data, ".json")


def state(data: bytes) -> None:
    """A state as `submit` reads it: decoded, checked against a job, and stored in the job's record."""
    blobs = InMemoryBlobStore()
    with _file(data, ".json") as path, suppress(SpecError):
        handoff = start_handoff(read_state(path), _job(), blobs, InMemoryBlobStore(), _settings())
        state_wire.handoff_blobs(Handoff.unpack(handoff.pack()))


def envelope(data: bytes) -> None:
    """A state as a worker decodes it. What it decodes can be encoded again."""
    blobs = InMemoryBlobStore()
    with _file(data, ".json") as path, suppress(SpecError, ContinuationError, BlobNotFoundError):
        decoded = state_wire.decode(read_state(path), blobs)
        state_wire.decode(state_wire.encode(decoded, blobs, inline_threshold_bytes=0), blobs)


def frames(data: bytes) -> None:
    """The container of a state's frames."""
    with suppress(ContinuationError):
        decode_frames(unpack_frames(data))


def tensor(data: bytes) -> None:
    """The audio latents of a state."""
    with suppress(ContinuationError):
        decode_tensor(data)


def png(data: bytes) -> None:
    """A frame of a state; its pixels have the size that its header says."""
    with suppress(ValueError):
        height, width, channels = decode_png(data).shape
        _check(((width, height), channels) == (png_size(data), 3), "the frame has another size than its header")


def picture(data: bytes) -> None:
    """A user's picture, decoded in this process. The child's limits are for larger ones."""
    with suppress(Exception), Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MOST_PIXELS:
            return
    with suppress(ValueError):
        _check(decode_picture(data, 32, 64).shape == (64, 32, 3), "the frame has another size than was asked for")


def video(data: bytes) -> None:
    """A user's video, decoded in this process. The child's limits are for larger ones."""
    with suppress(ValueError):
        wanted = Wanted(64, 32, Fit.PAD, Fraction(24), 1, Fraction(1), 16_000)
        _check(decode_ending(io.BytesIO(data), wanted).frames.shape == (1, 32, 64, 3), "the frame has another size")
    with suppress(ValueError):
        for part in encode_parts(io.BytesIO(data), WantedParts(64, 32, Fit.PAD, Fraction(1), 1, 64, 32)):
            _check(len(part) > 0, "a part is empty")


def safetensors(data: bytes) -> None:
    """The header of a safetensors file, and what it says the file is."""
    with _file(data, ".safetensors") as path, suppress(CheckpointError):
        str(recognize(path))


def gguf(data: bytes) -> None:
    """The header of a GGUF file, what it says the file is, and the config and vocabulary of a text encoder."""
    with _file(data, ".gguf") as path:
        with suppress(CheckpointError):
            str(recognize(path))
            header = header_of(path)
            if is_encoder(header.metadata[ARCHITECTURE]):
                encoder_in_gguf(path, header)
        with suppress(CheckpointError):
            read_vocabulary(path)


def sentencepiece(data: bytes) -> None:
    """A sentencepiece model; every piece that it merges is one that it has."""
    with suppress(CheckpointError):
        found = read_sentencepiece(Path("a.safetensors"), data)
        _check({left + right for left, right in found.merges} <= set(found.pieces), "a merge is of no piece")


def lora(data: bytes) -> None:
    """The header of a LoRA."""
    with _file(data, ".safetensors") as path, suppress(CheckpointError):
        read_lora(path)


def hub_name(data: bytes) -> None:
    """The name of a model on the hub. Its parts become paths, and none leaves its folder."""
    found = parse_hub_name(_text(data))
    for part in (found.repository, found.revision, found.file) if found else ():
        _check(part is None or not {"", ".", ".."} & set(part.split("/")), f"{part!r} is a path")


def message(data: bytes) -> None:
    """An entry of any queue."""
    for queue in QUEUES:
        _entry(data, queue)


def message_body(data: bytes) -> None:
    """The body of an entry whose other parts are valid."""
    for queue in QUEUES:
        entry = wire.changed(_envelope(queue), ("body",), b64encode(data).decode())
        _entry(json.dumps(entry).encode(), queue)


def manifest(data: bytes) -> None:
    """A blob's manifest. One that is read can be written, and read again."""
    try:
        found = Manifest.unpack(data)
    except (ValueError, NewerManifestError):
        return
    _check(Manifest.unpack(found.pack()) == found, "the manifest changed")


def record(data: bytes) -> None:
    """A stored record of each kind."""
    for kind in (Handoff, ClipRecord, FilmRecord):
        with suppress(RecordError, VersionError):
            kind.unpack(data)
    with suppress(RecordError, VersionError):
        _ = Handoff.unpack(data).decoding


def redis_url(data: bytes) -> None:
    """The URL of a Redis server. Every form of an accepted one can be made; any text can be masked."""
    text = _text(data)
    mask_urls(text)
    shown_url(text)
    try:
        address = parse_url(text)
    except RedisURLError:
        return
    _ = address.shown, address.tls_options, address.for_celery
    if not address.sentinels:
        _check(parse_url(address.for_redis) == address, "the URL changed")


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(spec_yaml, spec_json, state, envelope, frames, tensor, png, picture, video, safetensors, gguf),
        *(sentencepiece, lora, hub_name, message, message_body, manifest, record, redis_url),
    )
}


def _spec(data: bytes, suffix: str) -> None:
    with _file(data, suffix) as path:
        try:
            load_spec(path)
        except SpecError as error:
            _check(all(map(is_shown, str(error).split("\n"))), f"a terminal acts on {error!r}")


def _entry(data: bytes, queue: str) -> None:
    with suppress(MessageError, JobNotFoundError, VersionError):
        check_entry(data, queue)


@cache
def _envelope(queue: str) -> dict[str, Any]:
    if queue in TASKS:
        return wire.message(task=TASKS[queue], queue=queue)
    return wire.broadcast(None, queue, headers={"hostname": "w@h"})


@contextmanager
def _file(data: bytes, suffix: str) -> Iterator[Path]:
    with NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _check(is_true: bool, problem: str) -> None:
    """Report a fault by an error that no target ignores."""
    if not is_true:
        raise AssertionError(problem)


@cache
def _settings() -> Settings:
    return Settings(
        engine="tests.stand_in:StandInEngine"
    )  # with the model's own engine, its files would be read each time


@cache
def _job() -> JobSpec:
    return JobSpec.model_validate({"segments": [{"prompt": "a"}], "width": 64, "height": 64, "frames": 9, "overlap": 1})
