"""Models in files: the same weights as in a folder render the same bytes, whatever files they are in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ltx2.checkpoints.components import Stored
from ltx2.checkpoints.formats.weight_files import read_header
from ltx2.checkpoints.resolve import WEIGHTS, resolve_model
from ltx2.engine import Engine
from ltx2.errors import CheckpointError
from ltx2.model.weights.loading import load_pipeline
from ltx2.model.weights.stored_tensors import StoredTensors
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tests.ltx2.checkpoint_files import sparse
from tests.ltx2.exported_files import (
    Tensors,
    encoder_file,
    single_file,
    split_files,
)

REQUEST = SegmentRequest("a boat", 1, 96, 64, first_timing(SegmentShape(17, exact(24))))


@pytest.fixture(scope="module")
def files(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str | None]]:
    """The small checkpoints as files, and their text encoders, by name: one file, or split for 2.5."""
    folder = tmp_path_factory.mktemp("files")
    found: dict[str, tuple[str, str | None]] = {}
    for name, model in models.items():
        (folder / name).mkdir()
        if name == "tiny-2.5":
            found[name] = str(split_files(model, folder / name)), None
        else:
            found[name] = str(single_file(model, folder / name / "ltx-distilled.safetensors")), str(model)
    return found


def same(one: SegmentOutput, other: SegmentOutput) -> bool:
    pairs = ((one.video_latents, other.video_latents), (one.audio_latents, other.audio_latents))
    return all(torch.equal(*pair) for pair in pairs) and (one.frames == other.frames).all()


@pytest.mark.parametrize("name", ["tiny", "tiny-2.0", "tiny-2.5"])
def test_a_model_in_files_renders_the_bytes_of_its_folder(
    engines: dict[str, Engine], files: dict[str, tuple[str, str | None]], name: str
) -> None:
    # Given
    named, encoder = files[name]
    # When
    engine = Engine.load(named, device="cpu", encoder=encoder)
    # Then
    assert engine.variant == engines[name].variant
    assert same(engine.run(REQUEST), engines[name].run(REQUEST))


@pytest.mark.parametrize("name", ["tiny-2.0", "tiny-2.5"])
def test_bfloat16_weights_and_configs_are_those_of_the_folder(
    models: dict[str, Path], files: dict[str, tuple[str, str | None]], name: str, tmp_path: Path
) -> None:
    # When
    named, encoder = files[name]
    found = load_pipeline(resolve_model(named, tmp_path, encoder), torch.bfloat16)
    expected = load_pipeline(models[name], torch.bfloat16)
    # Then
    for component in WEIGHTS:
        ours, theirs = (getattr(one, component).state_dict() for one in (found, expected))
        assert ours.keys() == theirs.keys()
        assert all(ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours)


def test_weights_are_mapped_and_not_copied(files: dict[str, tuple[str, str | None]], tmp_path: Path) -> None:
    # When
    named, encoder = files["tiny"]
    pipeline = load_pipeline(resolve_model(named, tmp_path, encoder), torch.float32)
    # Then all of the transformer is in the memory of the file
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(named)]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in mapped]
    for parameter in pipeline.transformer.parameters():
        assert any(begin <= parameter.data_ptr() < end for begin, end in ranges)


def test_a_text_encoder_in_one_file_and_another_in_a_folder_are_the_same(
    models: dict[str, Path], files: dict[str, tuple[str, str | None]], tmp_path: Path
) -> None:
    # Given
    encoder = encoder_file(models["tiny"], tmp_path / "gemma.safetensors", {})
    # When
    in_file, in_folder = (
        load_pipeline(resolve_model(files["tiny"][0], tmp_path, str(place)), torch.float32)
        for place in (encoder, models["tiny"] / "text_encoder")
    )
    # Then
    ours, theirs = in_file.text_encoder.state_dict(), in_folder.text_encoder.state_dict()
    used = [name for name in theirs if "vision_tower" not in name and "multi_modal_projector" not in name]
    assert all(torch.equal(ours[name], theirs[name]) for name in used)
    assert in_file.tokenizer("a boat").input_ids == in_folder.tokenizer("a boat").input_ids


def test_tensors_that_do_not_fit_are_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    def broken(change: str) -> str:
        def edit(tensors: Tensors) -> Tensors:
            name = "model.diffusion_model.transformer_blocks.1.attn1.to_q.weight"
            if change == "missing":
                del tensors[name]
            elif change == "unexpected":
                tensors["model.diffusion_model.extra.weight"] = torch.zeros(2)
            else:
                tensors[name] = torch.zeros(2, 2)
            return tensors

        return str(single_file(models["tiny"], tmp_path / f"{change}.safetensors", edit))

    for change, message in {
        "missing": r"its files lack transformer_blocks\.1\.attn1\.to_q\.weight",
        "unexpected": r"its files have extra\.weight",
        "mismatched": r"the shape of transformer_blocks\.1\.attn1\.to_q\.weight differs",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            load_pipeline(resolve_model(broken(change), tmp_path, str(models["tiny"])), torch.float32)


def test_a_file_without_metadata_is_told_by_its_tensors(models: dict[str, Path], tmp_path: Path) -> None:
    # Given a file as people convert them; only the numbers of heads of 2.0 are in its header alone
    file = single_file(models["tiny"], tmp_path / "dev.safetensors", metadata={"config": json.dumps({})})
    # When
    engine = Engine.load(str(file), device="cpu", encoder=str(models["tiny"]))
    # Then it is taken for weights that are not distilled, because its name does not say so
    assert (engine.variant.version, engine.variant.distilled, engine.variant.layers) == ("2.3", False, 2)


def test_a_file_may_be_larger_than_memory(tmp_path: Path) -> None:
    # Given a file of a terabyte that takes no space
    file = tmp_path / "large.safetensors"
    sparse(file, {"a": ("BF16", (1 << 20, 1 << 19)), "b": ("F32", (2,))})
    header = read_header(file).tensors
    stored = {name: Stored(file, name, one.dtype, one.shape, one.begin, one.size) for name, one in header.items()}
    # When
    tensors = StoredTensors()
    found = {name: tensors.raw(one) for name, one in stored.items()}
    # Then
    assert found["a"].shape == (1 << 20, 1 << 19)
    assert found["a"][-1, -1] == 0
    found["b"] += 1  # stays in memory
    assert stored["b"].read() == bytes(8)
