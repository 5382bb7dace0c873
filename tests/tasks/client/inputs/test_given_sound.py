"""Jobs whose sound is given, with the stand-in engine: its latents are the loudness of their 40 ms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blobstore import open_blob_store
from ltx2.state.arrays import decode_latents
from tasks.client.inputs.reading import read_inputs
from tasks.client.submit import submit
from tasks.errors import SpecError
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import Worker
from tests.ltx2.media.sources.videos import sound_in, video
from tests.tasks.conftest import film_hash_of, job_store, spec

RATE, SECONDS = 24_000, 2.5  # the stand-in's rate


def ramp(seconds: float = SECONDS, rate: int = RATE) -> NDArray[np.float32]:
    """Noise that grows louder by 0.2 each second, `[2, samples]`."""
    count = round(seconds * rate)
    noise = np.random.default_rng(0).choice([-1.0, 1.0], (2, count))
    return (noise * 0.2 * np.arange(count) / rate).astype(np.float32)


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "track.wav"
    path.write_bytes(video(None, kind="wav", sound=ramp(), sound_codec="pcm_s16le", rate=RATE))
    return path


def given(track: Path, **changes: Any) -> dict[str, Any]:
    """Four segments with a cut before the third: 0.7 s + 0.33 s, twice."""
    wanted = spec("a", "b", "c", "d", audio=str(track), **changes)
    wanted["segments"][2]["transition"] = "cut"
    return wanted


def test_every_segment_gets_its_part_and_the_film_the_track(
    module_settings: Settings, worker: Worker, track: Path
) -> None:
    # Given
    job = submit(given(track), settings=module_settings)
    # When
    film = job.wait().status().film
    # Then all audio latents of each segment are the track's at its place, on one grid per scene
    jobs, store = job_store(module_settings), open_blob_store(module_settings.blobs)
    assert film
    for timing, handoff in zip(jobs.timings(job.id), jobs.handoffs(job.id), strict=True):
        _, latents = decode_latents(store.get(str(handoff.latents)))
        start = float(timing.first_frame / timing.shape.fps - timing.picture_start)
        times = start + 0.04 * np.arange(latents.shape[2])
        # resampled noise is as loud as the noise, but for what is above 8 kHz
        loudness = latents[0, 0, :, 0].numpy() / (0.2 * (times + 0.02))
        assert loudness[5:].mean() == pytest.approx(0.65, abs=0.1), timing.index
    # And the film has the track's samples, as well as AAC can
    heard = sound_in(store.get(film.blob_id))
    assert film.audio_samples == round(film.frames / 24 * RATE)
    assert np.corrcoef(heard[0, : film.audio_samples], ramp()[0, : film.audio_samples])[0, 1] > 0.9


def test_lost_latents_are_made_again_with_the_same_bytes(
    module_settings: Settings, worker: Worker, track: Path
) -> None:
    job = submit(given(track), settings=module_settings)
    film = film_hash_of(job)
    jobs, store = job_store(module_settings), open_blob_store(module_settings.blobs)
    before = [handoff.latents for handoff in jobs.handoffs(job.id)]
    lost = [str(before[1]), jobs.clips(job.id)[1].blob_id, job.status().film.blob_id]  # type: ignore[union-attr]
    for blob_id in lost:
        store.drop(blob_id)
    job.retry()
    assert film_hash_of(job) == film
    assert [handoff.latents for handoff in jobs.handoffs(job.id)] == before


def warnings_of(wanted: dict[str, Any]) -> tuple[str, ...]:
    return read_inputs(check_spec(wanted)).warnings


def test_what_may_surprise_is_a_warning(tmp_path: Path, track: Path) -> None:
    # Given tracks that are shorter and longer than the film of 33 + 8 frames, and one that starts at the second segment
    assert warnings_of(spec("a", "b", audio=str(track), frames=41)) == (
        "audio: the track has 2.50 s, the film 3.04 s: silence follows it",
    )
    assert warnings_of(spec("a", audio=str(track))) == (
        "audio: the track has 2.50 s, the film 0.71 s: the rest of it is not heard",
    )
    sound = ramp(33 / 24) + 0.2
    sound[:, : round(25 / 24 * RATE)] = 0
    loud = tmp_path / "drop.wav"
    loud.write_bytes(video(None, kind="wav", sound=sound, sound_codec="pcm_s16le", rate=RATE))
    # When / Then
    found = warnings_of(spec("a", "b", audio=str(loud), frames=25, overlap=17))
    assert found == ("audio: the track has a hard edge at 1.04 s, where segment 1 begins; the join may show it",)
    cut = spec("a", "b", audio=str(loud), frames=25, overlap=17)
    cut["segments"][1]["transition"] = "cut"
    assert not any("hard edge" in text for text in warnings_of(cut))


def test_appended_segments_are_warned_about_too(
    module_settings: Settings, worker: Worker, track: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a film over a track of about its length
    job = submit({**given(track), "frames": 33}, settings=module_settings)
    caplog.clear()
    # When
    job.append([{"prompt": "e"}])
    # Then
    assert caplog.messages == ["audio: the track has 2.50 s, the film 5.75 s: silence follows it"]


def test_a_file_without_sound_is_refused_where_it_is_submitted(module_settings: Settings, tmp_path: Path) -> None:
    text = tmp_path / "song.mp3"
    text.write_text("not a song")
    with pytest.raises(SpecError, match=r"audio: .*song.mp3: not a WAV, AIFF, FLAC, MP3, AAC, Ogg or a video file"):
        submit(spec("a", audio=str(text)), settings=module_settings)
    with pytest.raises(SpecError, match=r"audio: .*continues a state"):
        submit(spec("a", audio=str(text)), from_state={"kind": "x"}, settings=module_settings)
