"""Ways in which a stored blob is lost, done behind the store's back."""

from __future__ import annotations

import redis

from tasks.client.job import Job
from tests.conftest import wait_until
from tests.faults.ground import Ground

KINDS = ("flipped", "truncated", "swapped", "expired")
LEAVES_A_TRACE = KINDS[:3]


def blobs_of(ground: Ground, job: Job, index: int) -> dict[str, str]:
    """The ids of what segment `index` has left: tail frames, audio, latents and clip."""
    handoff = ground.jobs.handoff(job.id, index)
    assert handoff
    assert handoff.latents
    payload = handoff.state["payload"]
    made = wait_until(lambda: ground.jobs.clips(job.id).get(index), what="the clip, which is made beside what follows")
    clip = made.blob_id
    return {
        "frames": payload["video"]["blob_id"],
        "audio": payload["audio"]["blob_id"],
        "latents": handoff.latents,
        "clip": clip,
    }


def damage(ground: Ground, blob_id: str, kind: str) -> None:
    """Spoil a blob: a bit flipped, a byte missing, another blob's bytes in its place, or all of it gone."""
    client = redis.Redis.from_url(ground.settings.blobs)
    key = f"longtake:blob:{blob_id.removeprefix('sha256:')}"
    client.delete(_quarantine(blob_id))  # of an earlier test: the same bytes have the same id
    chunk = client.hget(key, "0")
    assert isinstance(chunk, bytes)
    if kind == "flipped":
        client.hset(key, "0", bytes([chunk[0] ^ 1]) + chunk[1:])
    elif kind == "truncated":
        client.hset(key, "0", chunk[:-1])
    elif kind == "swapped":
        other = ground.blobs.put(b"bytes of another blob")
        client.rename(f"longtake:blob:{other.removeprefix('sha256:')}", key)
    else:
        client.pexpireat(key, 1)  # long ago: it is gone at once, before anybody can pin it again


def is_quarantined(ground: Ground, blob_id: str) -> bool:
    """Whether the damaged bytes were set aside."""
    return bool(redis.Redis.from_url(ground.settings.blobs).exists(_quarantine(blob_id)))


def _quarantine(blob_id: str) -> str:
    return f"longtake:quarantine:{blob_id.removeprefix('sha256:')}"
