"""Specs: parsing, defaults, and the error for every kind of invalid input."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx2.checkpoints.loras.lora import Lora
from ltx2.sampling import Decoder, Sampling, Scales, Shift
from tasks.errors import SpecError
from tasks.spec.head import JobHead
from tasks.spec.loader import check_spec, load_spec, parse_spec
from tasks.spec.schema import JobSpec

HARBOUR = """\
title: harbour at dawn
model: tiny
width: 96
height: 64
frames: 25
fps: 24
seed: 7
segments:
  - prompt: a fishing boat leaves the harbour
  - prompt: gulls follow the boat
    seed: 12
  - prompt: fog rolls in, a bell rings
    transition: cut
"""


def test_parses_the_example_of_the_readme() -> None:
    # When
    spec = parse_spec(HARBOUR)
    # Then
    assert (spec.title, spec.model, spec.width, spec.height, spec.frames) == ("harbour at dawn", "tiny", 96, 64, 25)
    assert [segment.transition for segment in spec.segments] == ["continue", "continue", "cut"]
    assert [spec.seed_of(i, segment) for i, segment in enumerate(spec.segments)] == [7, 12, 9]
    assert spec.head.model_dump() == spec.model_dump(exclude={"segments", "open", "approve"})


@pytest.mark.parametrize("prompt", ["", " ", "\t\n", "\u3000", "\u200b\u2060", "\x00"])
def test_a_blank_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(SpecError, match=r"segments\.1\.prompt: must not be (blank|empty)"):
        check_spec({"segments": [{"prompt": "a"}, {"prompt": prompt}]})


def test_a_spec_determines_sampling(tmp_path: Path) -> None:
    # Given a spec with all sampling fields, and one with none
    (tmp_path / "job.yaml").write_text(
        "stages: 2\nsteps: 20\nnegative_prompt: fog\nguidance: {cfg: [3, 7.5], rescale: 0}\nimage: boat.png\n"
        "shift: tokens\ndistilled: false\nimage_crf: 0\n"
        "upsampler: owner/x2\nstage2_lora: owner/fast\nsound_stage: 2\n"
        "decoder: diffusion\n"
        "segments: [{prompt: a}]"
    )
    spec, default = load_spec(tmp_path / "job.yaml"), check_spec({"segments": [{"prompt": "a"}]})
    # Then the sampling has these values, also after a round trip through a job record
    guidance = {"guidance": Scales(3, 7.5), "rescale": Scales(0, 0)}
    more = {"decoder": Decoder.DIFFUSION, "upsampler": "owner/x2", "stage2_lora": Lora("owner/fast"), "sound_stage": 2}
    expected = Sampling(2, 20, "fog", **guidance, shift=Shift.TOKENS, distilled=False, image_crf=0, **more)  # type: ignore[arg-type]
    assert spec.sampling == expected
    assert JobHead.model_validate(msgpack.unpackb(msgpack.packb(spec.head.model_dump()))).sampling == expected
    assert default.sampling == Sampling()
    # And the image path is relative to the spec file
    assert spec.image == str(tmp_path / "boat.png")


def test_parses_json() -> None:
    assert parse_spec('{"segments": [{"prompt": "a"}]}').segments[0].prompt == "a"


def test_only_paths_of_existing_loras_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a LoRA file, and a folder with the name of a built-in model
    (tmp_path / "rain.safetensors").touch()
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    # When
    spec = parse_spec(
        "model: tiny\nsegments: [{prompt: a}]\nloras: [{path: rain.safetensors}, {path: a/b, weight: -0.5}]"
    )
    # Then
    assert [(lora.path, lora.weight) for lora in spec.loras] == [("rain.safetensors", 1.0), ("a/b", -0.5)]
    encoded = spec.model_copy(update={"text_encoder": "rain.safetensors"})
    assert encoded.with_absolute_paths().text_encoder == f"{tmp_path}/rain.safetensors"
    absolute = spec.with_absolute_paths()
    assert [lora.path for lora in absolute.loras] == [f"{tmp_path}/rain.safetensors", "a/b"]
    assert absolute.model == "tiny"
    assert absolute.model_copy(update={"loras": spec.loras}) == spec
    (tmp_path / "model").mkdir()
    full = parse_spec("model: model#full\nsegments: [{prompt: a}]").with_absolute_paths()
    assert full.model == f"{tmp_path}/model#full"
    # and so do those of the second stage
    two = parse_spec("stages: 2\nupsampler: tiny\nstage2_lora: rain.safetensors\nsegments: [{prompt: a}]")
    assert (two.more_files["upsampler"], two.more_files["stage2_lora.path"]) == ("tiny", "rain.safetensors")
    assert two.with_absolute_paths().more_files["stage2_lora.path"] == f"{tmp_path}/rain.safetensors"


def test_ntsc_rates_are_exact() -> None:
    assert parse_spec("fps: 23.976\nsegments: [{prompt: a}]").shape.fps == Fraction(24000, 1001)


INVALID = {
    "title: [": ":1: not valid YAML",
    "": "must be a mapping",
    "- a\n- b": "must be a mapping",
    "title: x": ": segments: missing",
    "segments: []": ":1: segments: must have at least one, or be `open`: then segments are appended later",
    "segments: nothing": ":1: segments: must be a list, not 'nothing'",
    "segments: [{}]": ":1: segments.0.prompt: missing",
    "segments: [boat]": ":1: segments.0: must be a mapping, not 'boat'",
    "segments:\n  - prompt: a\n  - prompt: ''": ":3: segments.1.prompt: must not be empty",
    '{"segments": [\n{"prompt": "\\ud800"}]}': ":2: segments.0.prompt: must be valid Unicode text, not '\\ud800'",
    "segments: [{prompt: a}]\ntitle: 2026": ":2: title: must be text, not 2026",
    "segments: [{prompt: a}]\ntitle: " + "a" * 121: ":2: title: must have at most 120 characters, not 121",
    "segments:\n  - prompt: a\n    transitoin: cut": ":3: segments.0.transitoin: unknown key; did you mean transition?",
    "segments: [{prompt: a}]\nwidht: 96": ":2: widht: unknown key; did you mean width?",
    "segments: [{prompt: a}]\nprompt: b": ":2: prompt: unknown key; it belongs in a segment, below `segments`",
    "segments: [{prompt: a, width: 96}]": ":1: segments.0.width: unknown key; it belongs above `segments`",
    'segments: [{prompt: a}]\n"\\e[1m\\n": 1': r":2: \x1b[1m\n: unknown key; the keys are title",
    'segments: [{prompt: a}]\n"\\e": 1\n"\\e": 1': r":3: \x1b: given twice",
    "segments: [{prompt: a}]\nloras: [{weight: 1}]": ":2: loras.0.path: missing",
    "segments: [{prompt: a}]\nloras:\n  - path: a\n    scale: 1": ":4: loras.0.scale: unknown key; the keys are path",
    "segments: [{prompt: a}]\nloras: [{path: a, weight: 2.5}]": ":2: loras.0.weight: must be at most 2, not 2.5",
    "segments: [{prompt: a}]\nloras: [{path: a, weight: .nan}]": ":2: loras.0.weight: must be a finite number, not nan",
    "segments: [{prompt: a}]\nloras: [{path: a, weight: x}]": ":2: loras.0.weight: must be a number, not 'x'",
    "segments: [{prompt: a}]\nloras: [{path: a, weight: [1]}]": ":2: loras.0.weight: must be a number, not a list",
    "segments: [{prompt: a}]\nloras: a": ":2: loras: must be a list, not 'a'",
    "segments: [{prompt: a}]\nloras: [" + "{path: a}," * 9 + "]": ":2: loras: must have at most 8 entries, not 9",
    "segments: [{prompt: a}]\nwidth: 100": ":2: width: 100 is not a multiple of 32; the nearest are 96 and 128",
    "segments: [{prompt: a}]\nheight: wide": ":2: height: must be a whole number, not 'wide'",
    "segments: [{prompt: a}]\nheight: true": ":2: height: must be a whole number, not true",
    "segments: [{prompt: a}]\nheight:": ":2: height: must be a whole number, not null",
    "segments: [{prompt: a}]\nheight: 64.0": ":2: height: must be a whole number, not 64.0",
    "segments: [{prompt: a}]\nheight: '64'": ":2: height: must be a whole number, not '64'",
    "segments: [{prompt: a}]\nframes: 24": ":2: frames: 24 is not of the form 8k+1; the nearest are 17 and 25",
    "segments: [{prompt: a}]\noverlap: 8": ":2: overlap: 8 is not of the form 8k+1; the nearest are 1 and 9",
    "segments: [{prompt: a}]\nframes: 25\noverlap: 20": ":3: overlap: 20 is not of the form 8k+1; the nearest is 17",
    "segments: [{prompt: a}]\nframes: 26\noverlap: 30": ":3: overlap: 30 is not of the form 8k+1; it must be one, and",
    "segments: [{prompt: a, frames: 25, overlap: 20}]": "overlap: 20 is not of the form 8k+1; the nearest is 17",
    "segments: [{prompt: a}]\nhieght: 9": ":2: hieght: unknown key; did you mean height?",
    "segments: [{prompt: a}]\nframes: 9": ":2: frames: overlap 9 (the default) must be smaller than frames 9",
    "overlap: 129\nsegments: [{prompt: a}]": ":1: overlap: overlap 129 must be smaller than frames 121 (the default)",
    "overlap: 9\nframes: 9\nsegments: [{prompt: a}]": ":1: overlap: overlap 9 must be smaller than frames 9",
    "segments: [{prompt: a}]\nmodel: owner/name\nframes: 489": "frames: 489 at 24 per second are 20.4 s; LTX-2",
    "segments: [{prompt: a}]\nmodel: tiny\nfps: 12\nframes: 249": "up to 20 s, and thus at most 241 frames",
    "segments: [{prompt: a}]\nfps: 0": ":2: fps: must be at least 1, not 0",
    "segments: [{prompt: a}]\nfps: .nan": ":2: fps: must be a finite number, not nan",
    "segments: [{prompt: a}]\nseed: -1": ":2: seed: must be at least 0, not -1",
    "segments: [{prompt: a}]\nseed: 1.5": ":2: seed: must be a whole number, not 1.5",
    f"segments: [{{prompt: a}}]\nseed: {2**63}": f":2: seed: must be less than {2**63}, not {2**63}",
    "segments: [{prompt: a, transition: wipe}]": ":1: segments.0.transition: must be 'continue', 'cut' or 'fade', not",
    "segments: [{prompt: a}]\nwidth: 96\nstages: 2": ":3: stages: 2 needs a width that is a multiple of 64, not 96",
    "segments: [{prompt: a}]\nstages: 2\nheight: 32": ":2: stages: 2 needs a height that is a multiple of 64, not 32",
    "segments: [{prompt: a}]\nupsampler: a/b": ":2: upsampler: upsampler is used with two stages only: remove",
    "segments: [{prompt: a}]\nstage2_lora: a/b\nstages: 1": ":2: stage2_lora: stage2_lora is used with two stages only",
    "segments: [{prompt: a}]\nsound_stage: 2": ":2: sound_stage: sound_stage is used with two stages only: remove it",
    "segments: [{prompt: a}]\nstages: 2\nstage2_lora:\n  path: a\n  scale: 1": ":5: stage2_lora.scale: unknown key",
    "segments: [{prompt: a}]\nstages: 2\nstage2_lora: [a]": ":3: stage2_lora: must be a mapping, not a list",
    "segments: [{prompt: a}]\nstages: 2\nstage2_lora: {path: a, weight: 3}": ":3: stage2_lora.weight: must be at most",
    "segments: [{prompt: a}]\nmodel: a/b#full\ndistilled: true": "distilled: #full names weights that are not dist",
    "segments: [{prompt: a}]\ndecoder: vae": ":2: decoder: must be 'convolutional' or 'diffusion', not 'vae'",
    "segments: [{prompt: a}]\nstages: 3": ":2: stages: must be at most 2, not 3",
    "segments: [{prompt: a}]\nsteps: 1": ":2: steps: must be at least 2, not 1",
    "segments: [{prompt: a}]\nguidance: {cfg: 0.5}": ":2: guidance.cfg: guidance of the picture is 0.5; it must be in",
    "segments: [{prompt: a}]\nguidance:\n  stg: [1]": ":3: guidance.stg: must be a number, or two: [picture, sound]",
    "segments: [{prompt: a}]\nguidance: {cfg: [3, x]}": ":2: guidance.cfg: must be a number, or two: [picture, sound]",
    "segments: [{prompt: a}]\nguidance: {modality: true}": ":2: guidance.modality: must be a number",
    "segments: [{prompt: a}]\nguidance: {rescale: .nan}": ":2: guidance.rescale: rescale of the picture is nan",
    "segments: [{prompt: a}]\nguidance: {power: 3}": ":2: guidance.power: unknown key; the keys are cfg, stg, moda",
    "segments: [{prompt: a}]\nguidance: 3": ":2: guidance: must be a mapping, not 3",
    "segments: [{prompt: a}]\nimage: ''": ":2: image: must not be empty",
    "segments: [{prompt: a}]\nnegative_prompt: [a]": ":2: negative_prompt: must be text, not a list",
    "segments: [{prompt: a}]\nwidth: 96\nwidth: 96": ":3: width: given twice",
    'segments: [{prompt: a}]\ntitle: "a\\nb"': ":2: title: must be one line",
    "a: &x [1]\nb: *x": ":2: aliases (*x) are not allowed",
    "title: !!python/name:os.system x": ":1: tags (tag:yaml.org,2002:python/name:os.system) are not allowed",
    "width: !!int ''": ":1: tags (tag:yaml.org,2002:int) are not allowed",
    "segments: [{prompt: a}]\nwidth: 0x" + "f" * 5000: ":2: width: must be at most 4096, not an integer of 20000 bits",
    "[" * 2000: ":1: nested deeper than 8 levels",
}


@pytest.mark.parametrize(("text", "message"), INVALID.items(), ids=[repr(text)[:40] for text in INVALID])
def test_the_error_names_the_line_field_and_valid_values(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(text, source="job.yaml")
    assert f"job.yaml{message}" in str(error.value) or message in str(error.value)
    assert str(error.value).startswith("job.yaml")


def test_one_error_lists_all_invalid_fields() -> None:
    with pytest.raises(SpecError) as error:
        parse_spec("width: 100\nframes: 24\nsegments: [{prompt: a}]", source="job.yaml")
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == ["width", "frames"]
    # And the first ones of many, a misspelt key, too
    with pytest.raises(SpecError) as error:
        parse_spec("title: a\nwidht: 96\nsegments:\n" + "- {}\n" * 10, source="job.yaml")
    lines = str(error.value).splitlines()
    assert (len(lines), lines[0]) == (11, "job.yaml:2: widht: unknown key; did you mean width?")


def test_an_unreadable_spec_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in (("absent.yaml", "No such file"), ("binary", "not UTF-8"), (".", "Is a directory")):
        with pytest.raises(SpecError, match=message):
            load_spec(tmp_path / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*JobSpec.model_fields, "x"]), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({1: 2}, "spec: 1: unknown key; the keys are title, model"),
        ({"title": b"\xff"}, "spec: title: must be valid Unicode text, not a value of type bytes"),
        ({"width": {1}}, "spec: width: must be a whole number, not a value of type set"),
        ({"seed": 10**5000}, f"spec: seed: must be less than {2**63}, not an integer of 16610 bits"),
        ({"title": "a" * 60 + "\n" * 100}, "spec: title: must have at most 120 characters, not 160"),
        ({"fps": "\x1b" + "a" * 60}, rf"spec: fps: must be a number, not '\\x1b{'a' * 55}\.\.\.$"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_mappings_are_rejected(data: dict[Any, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_spec({"segments": [{"prompt": "a"}], **data})


@given(st.dictionaries(st.sampled_from([*JobSpec.model_fields, "x"]), json_values))
def test_any_mapping_is_a_spec_or_a_spec_error(data: dict[str, object]) -> None:
    message = ""
    try:
        spec = check_spec(data)
    except SpecError as error:
        message = str(error)
    else:
        assert spec.shape.frames > spec.shape.overlap
    assert not re.search(r"nput should|should (be|have)|unable to|must be valid,", message), "pydantic's wording"


@given(st.text(max_size=60))
def test_any_invalid_text_is_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        parse_spec(text + "\n  : invalid YAML: ]")


def test_a_segment_is_as_long_as_the_positions_of_its_model(tmp_path: Path) -> None:
    # Given a folder with a small model that has other positions, as the shipped one has
    config = tmp_path / "transformer" / "config.json"
    config.parent.mkdir()
    config.write_text('{"pos_embed_max_pos": 4}')
    long = {"segments": [{"prompt": "a"}], "frames": 1017}
    for model in (None, "shapes", str(tmp_path)):
        assert check_spec({**long, "model": model}).frames == 1017
    # Then others are held to those of LTX-2
    config.write_text("{}")
    for model in (str(tmp_path), "owner/name@main", "tiny-2.0"):
        with pytest.raises(SpecError, match=r"spec: frames: 1017 at 24 per second are 42\.4 s; LTX-2 has positions"):
            check_spec({**long, "model": model})
        assert check_spec({**long, "model": model, "frames": 481}).frames == 481


def test_a_spec_remembers_its_lines(tmp_path: Path) -> None:
    # Given
    (tmp_path / "job.yaml").write_text("model: tiny\nloras:\n  - path: a/b\nsegments:\n  - prompt: a\n")
    spec = load_spec(tmp_path / "job.yaml")
    # Then changed copies have them too, and they do not count in comparisons
    copy = spec.model_copy(update={"seed": 1}).with_absolute_paths()
    assert copy.source.place("loras", 0, "path") == f"{tmp_path}/job.yaml:3: loras.0.path"
    assert copy.source.place("image") == f"{tmp_path}/job.yaml:1: image"
    assert spec == parse_spec((tmp_path / "job.yaml").read_text())
    assert check_spec({"segments": [{"prompt": "a"}]}).source.place("model") == "spec: model"
