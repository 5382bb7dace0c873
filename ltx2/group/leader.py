"""The leader of a group: starts the other ranks, and makes each engine call on all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Pipe
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

from torch import distributed
from torch.distributed import distributed_c10d

from ltx2.checkpoints.loras.lora import Lora
from ltx2.errors import EngineMemoryError, LTX2Error, RankError
from ltx2.group.follower import DONE, FAILED, FIRST_STEP_FACTOR, GO_ON, IGNORED, READY, STOP
from ltx2.group.rendezvous import device_of_rank, join
from ltx2.group.values import pack
from ltx2.group.watch import START_S, FollowerProcess, Watch
from ltx2.media.temporary import temporary_folder
from ltx2.processes import python_path
from ltx2.request import Decoding, OnState, OnStep, SegmentOutput, SegmentRequest

if TYPE_CHECKING:
    from ltx2.state.continuation import LTX2ContinuationState

FOLDERS = "longtake-ranks-"
T = TypeVar("T")


class RankGroup:
    """This process as rank 0, and the followers that it starts, which end with it.

    device: of rank 0 (auto, cpu, cuda or cuda:N); the others have the next ones. timeout_s: how long one rank may wait
    for another. on_stuck: called with the reason, in a thread, if this process cannot leave a call after a fault.

    Raises:
        RankError: a rank died, or does not answer. Every later call raises it too, and only a new process can render.
    """

    def __init__(
        self, count: int, device: str, *, timeout_s: float, on_stuck: Callable[[str], None] = lambda _: None
    ) -> None:
        self.count = count
        self._limit_s = FIRST_STEP_FACTOR * timeout_s
        self._device = device
        self._files = ExitStack()
        folder = self._files.enter_context(temporary_folder(FOLDERS))
        self._followers = [
            _start(rank, count, device_of_rank(device, rank), str(folder), str(timeout_s)) for rank in range(1, count)
        ]
        self._watch = Watch(self._followers, timeout_s=timeout_s, abort=_abort_exchanges, on_stuck=on_stuck)
        self._watch.start()
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # the watch ends this process, not torch
        with self._watch.call(START_S + timeout_s):
            self._expect(READY)
            self._tell(READY)
            # followers give up first, so that this rank hears why
            wait_s = timeout_s + self._watch.settle_s
            try:
                self._ranks = join(0, count, device_of_rank(device, 0), folder, timeout_s=wait_s)
            except RuntimeError as error:
                self._watch.fail(f"the ranks have not found each other: {error}")
            self._expect(DONE)

    @property
    def works(self) -> bool:
        """Whether all ranks are there."""
        return self._watch.fault is None

    def load(self, engine: str, model: str, *, loras: Sequence[Lora] = (), **settings: Any) -> GroupEngine:
        """Load `model` on every rank. engine: the class, as `module:name`, whose `load` has the same arguments."""
        kind = resolve_name(engine)
        given: dict[str, Any] = {"loras": tuple(loras), **settings}
        device = device_of_rank(self._device, 0)
        loaded = self.call(
            "load", (engine, model), given, lambda: kind.load(model, device=device, ranks=self._ranks, **given)
        )
        return GroupEngine(self, loaded)

    def call(self, name: str, positional: tuple[Any, ...], named: Mapping[str, Any], own: Callable[[], T]) -> T:
        """Make an engine call on every rank; `own` makes it on this one. Its result, or its error.

        Raises:
            RankError: a rank died, hangs, lost the others, or failed alone.
        """
        self.check()
        message = pack((name, positional, dict(named)))
        error: Exception | None = None
        with self._watch.call(None if name == "load" else self._limit_s):  # which may download
            self._tell(message)
            try:
                result = own()
            except Exception as failure:
                error = failure
            self._watch.own_part_ended(error)
            replies = [follower.replies.get() for follower in self._followers]
        self._judge(name, error, replies)
        return result

    def after_step(self, answer: bool | None) -> None:
        """Tell the followers whether they go on after a denoising step."""
        self.check()
        self._watch.moved()
        self._tell(STOP if answer is False else GO_ON)

    def check(self) -> None:
        """Raises RankError if a rank is missing."""
        if self._watch.fault is not None:
            raise RankError(self._watch.fault)

    def close(self) -> None:
        """End the followers, and leave the group."""
        self._watch.close("the group is closed")
        if distributed.is_initialized() and not _uses_gpus():  # those the watch aborts
            distributed.destroy_process_group()
        self._files.close()

    def _judge(self, name: str, error: Exception | None, replies: Sequence[bytes | None]) -> None:
        """Raise what a call ends with on all ranks."""
        if self._watch.fault is None:
            failures = [
                f"rank {follower.rank}: {reply.removeprefix(FAILED).decode(errors='replace')}"
                for follower, reply in zip(self._followers, replies, strict=True)
                if reply is not None and reply != DONE
            ]
            alike = len(failures) == len(self._followers) and all(
                f": {type(error).__name__}: " in failure for failure in failures
            )
            if error is None and failures:
                self._watch.fail(f"{name} failed on some ranks only: {'; '.join(failures)}")
            elif isinstance(error, EngineMemoryError) and not alike:
                self._watch.fail(f"{name} failed on some ranks only: rank 0: {error}")
            elif error is not None and _is_of_exchange(error):
                self._watch.fail(f"{name}: the ranks lost each other: {error}")
        if self._watch.fault is not None:
            raise RankError(self._watch.fault) from error
        if error is not None:
            if not isinstance(error, LTX2Error) or isinstance(error, EngineMemoryError):
                # an exchange may be half done; ranks may be out of memory at different ones, and the GPU waits for it
                self._watch.fail(f"{name} failed on all ranks: {type(error).__name__}: {error}")
            raise error

    def _tell(self, message: bytes) -> None:
        for follower in self._followers:
            with suppress(OSError):  # it is gone, as the watch finds, too
                follower.connection.send_bytes(message)

    def _expect(self, wanted: bytes) -> None:
        for follower in self._followers:
            follower.replies.get()
        self.check()


class GroupEngine:
    """An engine whose calls are made on every rank; see `ltx2.engine.Engine`."""

    def __init__(self, group: RankGroup, engine: Any) -> None:
        self._group = group
        self._engine = engine
        self.audio_rate: int = engine.audio_rate
        self.made_with: dict[str, str] = {**getattr(engine, "made_with", {}), "gpus": str(group.count)}

    def set_loras(self, loras: Sequence[Lora]) -> bool:
        """Change to `loras` on every rank."""
        return bool(self._group.call("set_loras", (tuple(loras),), {}, lambda: self._engine.set_loras(loras)))

    def warm_up(self, request: SegmentRequest, *, images: Collection[int] = ()) -> None:
        """Compile on every rank."""
        named = {"images": tuple(images)} if images else {}
        self._group.call("warm_up", (request,), named, lambda: self._engine.warm_up(request, **named))

    def run(
        self,
        request: SegmentRequest,
        state: LTX2ContinuationState | None = None,
        *,
        on_step: OnStep | None = None,
        next_prompt: str | None = None,
        on_state: OnState | None = None,
    ) -> SegmentOutput:
        """Render one segment on all ranks; this one has the output. If `on_step` says so, all stop after that step."""

        def after_step(step: int, steps: int) -> bool | None:
            answer: bool | None = False
            try:
                answer = on_step(step, steps) if on_step else None
            finally:
                self._group.after_step(answer)
            return answer

        def checked(*early: Any) -> None:
            self._group.check()  # what was exchanged with a killed rank is not to be stored
            if on_state is not None:
                on_state(*early)

        named = {"next_prompt": next_prompt}
        output: SegmentOutput = self._group.call(
            "run",
            (request, state),
            named,
            lambda: self._engine.run(request, state, on_step=after_step, on_state=checked, **named),
        )
        return output

    def decode(self, video_latents: Any, audio_latents: Any, decoding: Decoding | None = None) -> tuple[Any, Any]:
        """Frames and sound of stored latents, decoded by all ranks."""
        given = (video_latents, audio_latents, decoding)
        decoded: tuple[Any, Any] = self._group.call("decode", given, {}, lambda: self._engine.decode(*given))
        return decoded

    def encode_sound(self, sound: Any, latents: int, *, lead: int = 0) -> Any:
        """Audio latents of sound; every rank encodes it."""
        named = {"lead": lead}
        return self._group.call(
            "encode_sound", (sound, latents), named, lambda: self._engine.encode_sound(sound, latents, **named)
        )

    def duration(self, prompt: str) -> float:
        """Seconds of the shot that `prompt` describes; every rank encodes the prompt, as for its rendering."""
        return float(self._group.call("duration", (prompt,), {}, lambda: self._engine.duration(prompt)))


def _start(rank: int, *arguments: object) -> FollowerProcess:
    own, other = Pipe()
    command = [sys.executable, "-m", "ltx2.group.follower", str(other.fileno()), str(rank), *map(str, arguments)]
    # it stays in the process group, so that whoever stops that stops all ranks; Ctrl-C there is for the leader
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        with other:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": python_path()},
                pass_fds=[other.fileno()],
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return FollowerProcess(rank, process, own)


def _is_of_exchange(error: Exception) -> bool:
    """Whether ranks lost each other, as all of them may notice. Errors of gloo have no type of their own."""
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


def _uses_gpus() -> bool:
    return "nccl" in str(distributed.get_backend_config())


def _abort_exchanges() -> None:
    """End the exchanges on GPUs that wait for a killed rank; those over gloo end with its connections."""
    if distributed.is_initialized() and _uses_gpus():
        with suppress(RuntimeError):
            distributed_c10d._abort_process_group()
