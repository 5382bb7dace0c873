"""Stand-in engine for tests: real shapes and states, no model, configurable speed and faults."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import distributed

from ltx2 import LTX2ContinuationState
from ltx2.checkpoints.loras.lora import Lora
from ltx2.errors import DeviceError, EngineMemoryError, HubUnreachableError, NotFiniteError, SegmentCancelledError
from ltx2.parallel.ranks import Ranks
from ltx2.request import Decoding, OnState, OnStep, SegmentOutput, SegmentRequest, VideoAfter
from ltx2.timeline import latent_frames, sound_seconds

STEPS = 4
STEP_S = "STAND_IN_STEP_S"
LOAD_FAILS = "STAND_IN_LOAD_FAILS"  # "rank 1": on that rank alone, for want of memory
LOAD_DIES = "STAND_IN_LOAD_DIES"
RUN_FAILS = "STAND_IN_RUN_FAILS"
HUB_IS_OUT = "STAND_IN_HUB_IS_OUT"  # a file: while it exists, only the default model can be fetched
KILL_IN_DECODE = "STAND_IN_KILL_IN_DECODE"
DURATION = "STAND_IN_DURATION"
SALT = "STAND_IN_SALT"  # simulates another kind of machine, which produces other bytes
CHANNELS, MEL = 8, 16
poisoned = False  # as after a CUDA error: only a new process can use the device


class StandInEngine:
    """Prompts select a fault: `fail` raises, `memory` runs out of memory, `nan` gives NaN, `die` kills the
    process.

    With ` until <file>`, the fault occurs only until that file exists. `wait until <file>` blocks until the file
    exists. `poison` fails, and so does every later load of a model in this process. `tell <file>` writes the next
    segment's prompt to the file. `stall until <file>` waits for it, and for nothing else. `rank 1 memory` has the fault
    on that rank alone. Any other prompt renders pictures of one colour, `striped` two; `warn` comes with a warning.
    The model `refused` is refused, by each rank a second after the one before.
    """

    audio_rate = 24000

    def __init__(self, loras: Sequence[Lora] = (), ranks: Ranks | None = None) -> None:
        self.loras = loras
        self.ranks = ranks

    @classmethod
    def load(cls, model: str, *, loras: Sequence[Lora] = (), ranks: Ranks | None = None, **_: Any) -> Self:
        if os.environ.get(LOAD_DIES):
            os.kill(os.getpid(), signal.SIGKILL)
        if model == "refused":
            time.sleep(ranks.rank if ranks else 0)
            raise DeviceError("gpus", "2, but it has 1 head")
        if model != "shapes" and os.path.exists(os.environ.get(HUB_IS_OUT, "")):
            raise HubUnreachableError(f"cannot fetch {model}")
        if (fails := os.environ.get(LOAD_FAILS)) == "rank 1":
            if ranks and ranks.rank == 1:
                raise EngineMemoryError("no memory")
        elif fails or poisoned:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return cls(loras, ranks)

    def duration(self, prompt: str) -> float:
        """A second for each word, or what DURATION says."""
        return float(os.environ.get(DURATION, len(prompt.split())))

    def set_loras(self, loras: Sequence[Lora]) -> bool:
        self.loras = loras
        return True

    def run(
        self,
        request: SegmentRequest,
        state: LTX2ContinuationState | None = None,
        *,
        on_step: OnStep | None = None,
        next_prompt: str | None = None,
        on_state: OnState | None = None,
    ) -> SegmentOutput:
        if os.environ.get(RUN_FAILS):
            raise RuntimeError("this host cannot render")
        _inject_fault(request, on_step, self.ranks)
        if request.prompt.startswith("tell "):
            Path(request.prompt.removeprefix("tell ")).write_text(json.dumps(next_prompt))
        for step in range(1, STEPS + 1):
            time.sleep(float(os.environ.get(STEP_S, "0.01")))
            if self.ranks:
                distributed.all_reduce(torch.ones(1), group=self.ranks.group)
            if on_step and on_step(step, STEPS) is False:
                raise SegmentCancelledError(f"segment {request.timing.index} was cancelled after step {step}")
        timing = request.timing
        salt = int(os.environ.get(SALT, "0")) + sum(int(1000 * lora.weight) for lora in self.loras)
        seed = torch.Generator().manual_seed(request.seed + (state.segment_index if state else 0) + salt)
        video = torch.rand(
            1, 4, latent_frames(timing.shape.frames), request.height // 32, request.width // 32, generator=seed
        )
        video[0, 0, 0, 0, 0], video[0, 1, 0, 0, 0] = request.width, request.height
        video[0, 2, 0, 0, 0] = timing.shape.frames
        if request.image is not None:
            video[0, 3, 0, 0, 0] = float(request.image.mean()) / 255
        for placed in request.images:  # shown in place of that frame
            video[0, 0, 1, 0, 0], video[0, 1, 1, 0, 0] = 1 + placed.frame, float(placed.pixels.mean())
        audio = torch.rand(1, CHANNELS, timing.audio_latents, MEL, generator=seed)
        if request.sound is not None:
            audio = request.sound.clone()
        if request.end is not None:
            pinned, sounds = request.end.video_count, request.end.audio_count
            if isinstance(request.end, VideoAfter):
                video[:, :, -pinned:] = float(request.end.pictures[1:].mean())
            else:
                video[:, :, -pinned:] = request.end.video_latents[:, :, -pinned:]
            audio[:, :, audio.shape[2] - sounds :] = request.end.audio_latents[:, :, -sounds:] if sounds else 0
        frames, sound = self.decode(video, audio)
        if request.prompt == "striped":
            frames[:, ::2] = 255 - frames[:, ::2]
        following = LTX2ContinuationState(
            segment_index=timing.index,
            video_frames=list(frames[-timing.tail_frames :].copy()),
            audio_latents=audio,
            audio_sample_rate=self.audio_rate,
            audio_conditioning_num_frames=timing.next_pinned,
            audio_conditioning_strength=0.0,
            video_position_offset_sec=float(timing.next_offset),
            metadata=dict(state.metadata) if state else {},
        )
        if on_state:
            on_state(following, video, audio)
        warnings = ("the prompt is odd",) if request.prompt == "warn" else ()
        return SegmentOutput(frames, sound, self.audio_rate, video, audio, following, warnings=warnings)

    def encode_sound(self, sound: Any, latents: int, *, lead: int = 0) -> torch.Tensor:
        """Latents that are the loudness of their 640 samples."""
        assert len(sound) == (lead + latents) * 640
        loudness = np.abs(np.asarray(sound)).mean(axis=1).reshape(lead + latents, 640).mean(axis=1)[lead:]
        return (
            torch.from_numpy(loudness.astype(np.float32))[None, None, :, None].expand(1, CHANNELS, latents, MEL).clone()
        )

    def decode(self, video_latents: Any, audio_latents: Any, decoding: Decoding | None = None) -> tuple[Any, Any]:
        if KILL_IN_DECODE in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        width, height, count = (int(video_latents[0, channel, 0, 0, 0]) for channel in range(3))
        shade = int(video_latents[0, 3, 0, 0, 0] * 200)
        ramp = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.uint8(shade)
        frames = np.broadcast_to(ramp, (count, height, width, 3)).copy()
        if (number := int(video_latents[0, 0, 1, 0, 0])) > 0:
            frames[number - 1] = round(float(video_latents[0, 1, 1, 0, 0]))
        samples = int(sound_seconds(audio_latents.shape[2]) * self.audio_rate)
        sound = np.sin(np.arange(samples, dtype=np.float32) / 20)[:, None].repeat(2, axis=1) * np.float32(0.2)
        return frames, sound


def _exists(file: str, ranks: Ranks | None) -> bool:
    """Whether a file exists, as all ranks say at the same time."""
    found = torch.tensor([float(Path(file).exists())])
    if ranks:
        distributed.broadcast(found, 0, group=ranks.group)
    return bool(found)


def _inject_fault(request: SegmentRequest, on_step: OnStep | None, ranks: Ranks | None) -> None:
    prompt, _, file = request.prompt.partition(" until ")
    if prompt.startswith("rank "):
        _, faulty, prompt = prompt.split(" ", 2)
        if ranks is None or ranks.rank != int(faulty):
            return
        ranks = None  # this one alone
    if file and _exists(file, ranks):
        return
    while prompt == "wait" and not _exists(file, ranks):
        if on_step and on_step(1, STEPS) is False:
            raise SegmentCancelledError(f"segment {request.timing.index} was cancelled while it was blocked")
        time.sleep(0.02)
    while prompt == "stall" and not _exists(file, ranks):
        time.sleep(0.02)
    if prompt.startswith("fail"):
        raise RuntimeError("the prompt requests a failure")
    if prompt.startswith("poison"):
        global poisoned
        poisoned = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if prompt.startswith("memory"):
        raise EngineMemoryError("the prompt requests out of memory")
    if prompt.startswith("nan"):
        raise NotFiniteError(f"segment {request.timing.index}: the pixels are not finite")
    if prompt.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
