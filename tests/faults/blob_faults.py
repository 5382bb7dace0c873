"""Blob faults: stored bytes that are changed or deleted without the blob store's knowledge."""

from __future__ import annotations

import redis

from tasks.client.job import Job
from tests.conftest import wait_until
from tests.faults.harness import Harness

KINDS = ("flipped", "truncated", "swapped", "expired")
QUARANTINED_KINDS = KINDS[:3]


def segment_blobs(harness: Harness, job: Job, index: int) -> dict[str, str]:
    """The blob ids of segment `index`: tail frames, audio, latents and clip; waits for the clip."""
    handoff = harness.jobs.handoff(job.id, index)
    assert handoff
    assert handoff.latents
    payload = handoff.state["payload"]
    clip = wait_until(lambda: harness.jobs.clips(job.id).get(index), what="the clip, encoded in the background")
    return {
        "frames": payload["video"]["blob_id"],
        "audio": payload["audio"]["blob_id"],
        "latents": handoff.latents,
        "clip": clip.blob_id,
    }


def damage(harness: Harness, blob_id: str, kind: str) -> None:
    """Damage a blob: flip a bit, drop a byte, replace it by another blob's bytes, or delete it."""
    client = redis.Redis.from_url(harness.settings.blobs)
    key = f"longtake:blob:{blob_id.removeprefix('sha256:')}"
    client.delete(_quarantine(blob_id))  # left by an earlier test: the same bytes have the same id
    chunk = client.hget(key, "0")
    assert isinstance(chunk, bytes)
    if kind == "flipped":
        client.hset(key, "0", bytes([chunk[0] ^ 1]) + chunk[1:])
    elif kind == "truncated":
        client.hset(key, "0", chunk[:-1])
    elif kind == "swapped":
        other = harness.blobs.put(b"bytes of another blob")
        client.rename(f"longtake:blob:{other.removeprefix('sha256:')}", key)
    else:
        client.pexpireat(key, 1)  # in the past: it expires at once, before anything can pin it again


def is_quarantined(harness: Harness, blob_id: str) -> bool:
    """Whether the damaged bytes were moved to quarantine."""
    return bool(redis.Redis.from_url(harness.settings.blobs).exists(_quarantine(blob_id)))


def _quarantine(blob_id: str) -> str:
    return f"longtake:quarantine:{blob_id.removeprefix('sha256:')}"
