"""The engine on a CUDA device: `pytest -m gpu tests/ltx2/test_engine_gpu.py`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx2.checkpoints.loras.lora import Lora
from ltx2.engine import Engine
from ltx2.errors import EngineMemoryError
from ltx2.model.weights.placement import device_works
from ltx2.request import PinnedEnd, PlacedImage, SegmentOutput, SegmentRequest, VideoAfter
from ltx2.sampling import Sampling
from ltx2.timeline import SegmentShape, exact, first_timing, next_timing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # warnings of the compiler
]
FIRST = first_timing(SegmentShape(25, exact(24)))


def chain(engine: Engine) -> tuple[SegmentOutput, SegmentOutput]:
    """Two segments, the second continuing the first."""
    first = engine.run(SegmentRequest("a boat leaves", 7, 96, 64, FIRST))
    return first, engine.run(SegmentRequest("gulls follow", 8, 96, 64, next_timing(FIRST)), first.state)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tiny", "tiny-2.0", "tiny-2.5"])
def test_the_same_seed_gives_the_same_bytes_and_latents_decode_to_them(
    models: dict[str, Path], name: str, precision: str
) -> None:
    # Given
    engine = Engine.load(str(models[name]), device="cuda", precision=precision)
    # When
    one, again = chain(engine)[1], chain(engine)[1]
    # Then
    assert (one.frames == again.frames).all()
    assert (one.sound == again.sound).all()
    frames, sound = engine.decode(one.video_latents, one.audio_latents)
    assert (frames == one.frames).all()
    assert (sound == one.sound).all()


@pytest.mark.parametrize("name", ["tiny", "tiny-2.0", "tiny-2.5"])
def test_the_pinned_sound_is_preserved(models: dict[str, Path], name: str) -> None:
    first, second = chain(Engine.load(str(models[name]), device="cuda", precision="bf16"))
    kept = first.state.audio_conditioning_num_frames
    error = (second.audio_latents[:, :, :kept] - first.audio_latents[:, :, -kept:]).abs().max()
    assert float(error) < 1e-5


@pytest.mark.parametrize(
    ("precision", "offload"), [("fp32", "none"), ("bf16", "model"), ("bf16", "sequential"), ("fp8", "none")]
)
def test_an_end_images_and_given_sound_are_kept(models: dict[str, Path], precision: str, offload: str) -> None:
    # Given a segment of two stages
    engine = Engine.load(str(models["tiny"]), device="cuda", precision=precision, offload=offload)
    request = SegmentRequest("a boat leaves", 7, 128, 64, FIRST, Sampling(stages=2))
    old = engine.run(request)
    end = PinnedEnd(old.video_latents, old.audio_latents, old.decoding)
    images = (PlacedImage(3, old.frames[20]), PlacedImage(14, old.frames[5]))
    # When it is rendered again, with its end, and with all of its sound
    again = replace(request, seed=9, end=end, images=images)
    new, silent = engine.run(again), engine.run(replace(again, sound=old.audio_latents))
    # Then
    for output, kept in ((new, 10), (silent, FIRST.audio_latents)):
        assert torch.equal(output.video_latents[:, :, -1:], old.video_latents[:, :, -1:])
        assert torch.equal(output.audio_latents[:, :, -kept:], old.audio_latents[:, :, -kept:])
        assert not torch.equal(output.video_latents[:, :, 1:-1], old.video_latents[:, :, 1:-1])
    # And a video that follows is encoded to the same latents each time
    following = replace(again, end=VideoAfter(old.frames[-9:], old.audio_latents[:, :, -9:]))
    one, other = engine.run(following), engine.run(following)
    assert torch.equal(one.video_latents, other.video_latents)
    assert torch.equal(one.audio_latents[:, :, -9:], old.audio_latents[:, :, -9:])


@pytest.mark.parametrize("name", ["tiny", "tiny-2.0", "tiny-2.5"])
def test_float32_agrees_with_the_cpu(models: dict[str, Path], name: str) -> None:
    # Given
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # When
    cpu, cuda = (
        chain(Engine.load(str(models[name]), device=device, precision="fp32"))[1] for device in ("cpu", "cuda")
    )
    # Then
    spread = float(cpu.video_latents.std())
    assert float((cpu.video_latents - cuda.video_latents).abs().max()) < 0.02 * spread


def test_a_segment_is_the_same_after_running_out_of_memory(models: dict[str, Path]) -> None:
    # Given
    engine = Engine.load(str(models["tiny"]), device="cuda", precision="bf16")
    before = chain(engine)[1]
    # When there is only memory for the weights
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    try:
        with pytest.raises(EngineMemoryError):
            chain(engine)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    # Then it renders the same when memory is available again
    assert (chain(engine)[1].frames == before.frames).all()


POISONING = """
import torch
from ltx2.model.weights.placement import device_works
assert device_works("cuda")
values, index = torch.zeros(1, device="cuda"), torch.tensor([5], device="cuda")
try:
    print(values[index].sum().item())
except RuntimeError as error:
    assert "CUDA error" in str(error), error
print("works" if device_works("cuda") else "does not work")
"""


def test_a_device_that_failed_is_recognized_and_works_in_a_new_process() -> None:
    # Given a process that reads beyond a tensor on the device
    poisoned = subprocess.run([sys.executable, "-c", POISONING], capture_output=True, text=True, check=False)
    # Then it knows that the device is of no use to it any more
    assert poisoned.stdout == "does not work\n", poisoned.stderr
    # And this process still uses it
    assert device_works("cuda")


@pytest.mark.parametrize(
    ("precision", "offload", "changes"),
    [("bf16", "none", True), ("fp8", "none", True), ("fp8", "model", True), ("bf16", "sequential", False)],
)
def test_changed_loras_give_the_bytes_of_a_fresh_engine(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    offload: str,
    changes: bool,
) -> None:
    # Given a LoRA for every layer, and float8 layers even in a small model
    monkeypatch.setattr("ltx2.acceleration.fp8.SMALLEST_SIZE", 32)
    plain = Engine.load(str(models["tiny"]), device="cpu").pipeline
    random, tensors = torch.Generator().manual_seed(1), {}
    for component in ("transformer", "connectors"):
        for name, layer in getattr(plain, component).named_modules():
            if isinstance(layer, torch.nn.Linear):
                down = torch.randn(4, layer.in_features, generator=random)
                tensors[f"{component}.{name}.lora_A.weight"] = down
                tensors[f"{component}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=random) / 8
    save_file(tensors, tmp_path / "a.safetensors")
    settings = {"device": "cuda", "precision": precision, "offload": offload}
    engine = Engine.load(str(models["tiny"]), **settings)
    chain(engine)
    for strength in (1.0, 0.5, 0.0):
        loras = [Lora(str(tmp_path / "a.safetensors"), strength)]
        # When
        assert engine.set_loras(loras) is changes
        if not changes:
            return
        # Then
        ours, right = (chain(one)[1] for one in (engine, Engine.load(str(models["tiny"]), loras=loras, **settings)))
        assert torch.equal(ours.video_latents, right.video_latents)
        assert (ours.sound == right.sound).all()
