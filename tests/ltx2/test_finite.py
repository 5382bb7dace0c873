"""Values that are not finite are refused: at loading, or where the model gives them, before a state is passed on."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltx2.checkpoints.loras.lora import Lora
from ltx2.engine import Engine
from ltx2.errors import NotFiniteError, UnsupportedModelError
from ltx2.request import SegmentRequest
from ltx2.sampling import Sampling
from ltx2.timeline import SegmentShape, first_timing

FIRST = first_timing(SegmentShape(9, Fraction(24), 1))
WEIGHTS = "diffusion_pytorch_model.safetensors"
Part = Callable[[Engine], nn.Module]

SOURCES: dict[str, tuple[Part, int]] = {
    "text embeddings": (lambda engine: engine.pipeline.connectors, 0),
    "video latents": (lambda engine: engine.pipeline.transformer, 0),
    "(sound|video) latents": (lambda engine: engine.pipeline.transformer, 1),
    "pixels": (lambda engine: engine.pipeline.vae.decoder, 0),
    "samples of sound": (lambda engine: engine.pipeline.vocoder, 0),
}
"""What values are called (later steps mix sound and picture), and the module and the output that they come from."""


def request_of(prompt: str = "a boat", **settings: Any) -> SegmentRequest:
    return SegmentRequest(prompt, 3, 64, 64, FIRST, **settings)


@contextmanager
def one_value_of(module: nn.Module, output: int, value: float) -> Iterator[None]:
    """Replace one value of an output of `module`."""

    def replaced(_: nn.Module, args: Any, outputs: Any) -> Any:
        is_tuple = isinstance(outputs, tuple)
        tensors = list(outputs) if is_tuple else [outputs]
        tensors[output] = tensors[output].clone()
        tensors[output].view(-1)[-1] = value
        return tuple(tensors) if is_tuple else tensors[0]

    hook = module.register_forward_hook(replaced)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("source", SOURCES)
def test_one_value_that_is_not_finite_ends_the_segment(engines: dict[str, Engine], source: str, value: float) -> None:
    # Given an engine one of whose parts gives one such value
    engine, states = engines["tiny"], []
    request = request_of(f"{source} of {value}")
    part, output = SOURCES[source]
    with (
        one_value_of(part(engine), output, value),
        # When / Then the error says where it came from
        pytest.raises(
            NotFiniteError, match=f"segment 0: the {source} are not finite .* the model .*tiny.* without LoRAs"
        ),
    ):
        engine.run(request, on_state=lambda *state: states.append(state))
    # And no state was passed on, unless only the sound, which is decoded last, is affected
    assert bool(states) == (source == "samples of sound")
    # And the engine renders the same request once the part is well
    assert np.isfinite(engine.run(request).sound).all()


def test_stored_latents_that_decode_to_nan_are_no_clip(engines: dict[str, Engine]) -> None:
    engine = engines["tiny"]
    output = engine.run(request_of())
    with (
        one_value_of(engine.pipeline.vae.decoder, 0, math.nan),
        pytest.raises(NotFiniteError, match="decoding: the pixels"),
    ):
        engine.decode(output.video_latents, output.audio_latents)


def copy_with(model: Path, to: Path, change: Callable[[dict[str, Tensor]], None], file: str) -> Path:
    """A copy of a model folder with changed tensors in one file."""
    shutil.copytree(model, to)
    tensors = load_file(to / file)
    change(tensors)
    save_file(tensors, to / file)
    return to


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        (f"vae/{WEIGHTS}", "decoder.conv_out.conv.bias"),
        (f"transformer/{WEIGHTS}", "proj_in.weight"),
        (f"audio_vae/{WEIGHTS}", "latents_std"),
        ("text_encoder/model.safetensors", "language_model.model.embed_tokens.weight"),
    ],
)
def test_a_model_with_weights_that_are_not_finite_is_refused(
    models: dict[str, Path], tmp_path: Path, file: str, tensor: str
) -> None:
    # Given
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[tensor].view(-1)[-1] = math.inf

    model = copy_with(models["tiny"], tmp_path / "model", spoil, file)
    # When / Then
    part = Path(file).parent
    name = re.escape(tensor.removeprefix("language_model.model."))
    with pytest.raises(UnsupportedModelError, match=rf"{part} of \S+model has weights that are not finite .*{name}"):
        Engine.load(str(model), device="cpu")


def test_an_upsampler_with_weights_that_are_not_finite_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    # Given
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[max(tensors)].fill_(math.nan)

    file = f"latent_upsampler/{WEIGHTS}"
    engine = Engine.load(str(copy_with(models["tiny"], tmp_path / "model", spoil, file)), device="cpu")
    # When / Then a segment of one stage renders, and one of two stages is refused
    engine.run(request_of())
    with pytest.raises(UnsupportedModelError, match="latent_upsampler has weights that are not finite"):
        engine.run(request_of(sampling=Sampling(stages=2)))


def test_the_message_names_the_loras(models: dict[str, Path], tmp_path: Path) -> None:
    # Given a LoRA of finite numbers that are so large that what the model computes is not
    factors = {
        "transformer.proj_in.lora_A.weight": torch.ones(1, 16),
        "transformer.proj_in.lora_B.weight": torch.ones(64, 1),
    }
    lora = tmp_path / "loud.safetensors"
    save_file({name: tensor * 1e18 for name, tensor in factors.items()}, lora)
    engine = Engine.load(str(models["tiny"]), device="cpu")
    # When the engine changes to it, or was loaded with it
    engine.set_loras([Lora(str(lora), 0.5)])
    for changed in (engine, Engine.load(str(models["tiny"]), loras=[Lora(str(lora), 0.5)], device="cpu")):
        # Then
        with pytest.raises(NotFiniteError, match=r"segment 0: .* with the LoRAs \S+loud.safetensors \(weight 0.5\)"):
            changed.run(request_of())
