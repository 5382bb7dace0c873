"""What a file of weights is, as its header says: metadata first, then the names of its tensors."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ltx2.checkpoints.files.authors_configs import version_of_names
from ltx2.checkpoints.files.authors_names import TRANSFORMER_PREFIXES, bare_name
from ltx2.checkpoints.files.gguf_encoder import ONLY_IN_GEMMA_4, PROJECTOR, is_encoder
from ltx2.checkpoints.files.precision import form_of
from ltx2.checkpoints.formats.gguf import ARCHITECTURE, read_gguf
from ltx2.checkpoints.formats.weight_files import Header, StoredTensor, check_file, has_suffix, read_header
from ltx2.checkpoints.loras.file import sign_of_ic_lora
from ltx2.checkpoints.loras.names import Role, is_dora, other_adapter, parse

_GEMMA_4 = "gemma4_unified"
_ONLY_IN_GEMMA = (".self_attn.q_norm.weight", ".pre_feedforward_layernorm.weight")
"""How names of tensors end that Gemma 3 and 4 have, but no Gemma 2 and no Llama or Qwen."""
DIFFUSERS_LAYOUT = {
    "2.0": "Lightricks/LTX-2 or rootonchair/LTX-2-19b-distilled",
    "2.3": "diffusers/LTX-2.3-Diffusers or diffusers/LTX-2.3-Distilled-Diffusers",
    "2.5": "Lightricks/LTX-2.5-Diffusers",
}
"""Repositories on the hub that have a version in the layout of diffusers."""


def layout_advice(version: str | None = None) -> str:
    """What a model must be, with repositories of `version`."""
    such = DIFFUSERS_LAYOUT.get(version or "", DIFFUSERS_LAYOUT["2.3"])
    return f"a model must be in the layout of diffusers, such as {such}, or a file with the transformer of LTX-2"


def size_text(size: int) -> str:
    """`size` in bytes as GB, or as MB below 0.1 GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


class FileKind(StrEnum):
    """What a file of weights is for."""

    MODEL = "model in one file"
    PARTS = "part of a model"
    LORA = "LoRA"
    DORA = "DoRA"
    OTHER_ADAPTER = "adapter that is not a LoRA"
    IC_LORA = "IC-LoRA"
    UPSAMPLER = "latent upsampler"
    TEXT_ENCODER = "text encoder"
    OTHER_ENCODER = "language model that is not a text encoder of LTX-2"
    PROJECTOR = "tower for pictures (mmproj)"
    GGUF = "GGUF file"
    OTHER_NAMES = "transformer of LTX-2 with unknown names"
    LTX_VIDEO = "file of LTX-Video, the model before LTX-2"
    UNKNOWN = "file of unknown weights"


OTHER_LORAS = (FileKind.DORA, FileKind.OTHER_ADAPTER, FileKind.IC_LORA)
"""What people name under `loras:`, and longtake refuses."""
ALL_LORAS = (FileKind.LORA, *OTHER_LORAS)


@dataclass(frozen=True, slots=True)
class RecognizedFile:
    """A file of weights. version: of LTX-2, None if the file does not tell. size: in bytes. precision: see `precision`.

    parts: of the model that are in it, such as `transformer`. detail: more about its kind, or "".
    """

    path: str
    kind: FileKind
    version: str | None
    parts: tuple[str, ...]
    size: int
    precision: str
    detail: str = ""

    def __str__(self) -> str:
        version = f" of LTX-{self.version}" if self.version else ""
        parts = f": {', '.join(self.parts)}" if self.parts else ""
        detail = f", {self.detail}" if self.detail else ""
        article = "an" if self.kind.startswith(("IC", "adapter")) else "a"
        return (
            f"{self.path} is {article} {self.kind}{version}{parts} ({size_text(self.size)}, {self.precision}{detail})"
        )

    @property
    def is_model(self) -> bool:
        """Whether a job can name it as its model, with the parts that it lacks next to it."""
        return self.kind in (FileKind.MODEL, FileKind.PARTS, FileKind.GGUF) and "transformer" in self.parts

    @property
    def advice(self) -> str:
        """What to do with it instead of naming it as a model."""
        if self.kind is FileKind.LORA:
            return "name it under `loras:`, with the model that it was made for"
        if self.kind in OTHER_LORAS:
            return "longtake does not support this kind"
        if self.kind is FileKind.UPSAMPLER:
            return "if it doubles width and height, name it as the `upsampler:` of a spec with `stages: 2`"
        if self.kind is FileKind.OTHER_NAMES:
            return f"names of its tensors must begin with {', '.join(TRANSFORMER_PREFIXES)} or with nothing"
        if self.kind in (FileKind.LTX_VIDEO, FileKind.UNKNOWN):
            return "it is not a part of LTX-2"
        if self.kind is FileKind.OTHER_ENCODER:
            return "LTX-2 and 2.3 need Gemma 3, and 2.5 its own Gemma 4"
        if self.kind is FileKind.PROJECTOR:
            return "prompts are text, so longtake does not need it; name the file with the language model"
        if self.kind is FileKind.TEXT_ENCODER:
            return "name it as the `text_encoder` of a model"
        return "name the file with the transformer, and keep this one next to it"


def recognize(path: Path) -> RecognizedFile:
    """What the file `path`, .safetensors or .gguf, is.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return recognize_header(str(path), header_of(path))


def header_of(path: Path) -> Header:
    """The header of the file `path`, .safetensors or .gguf.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not has_suffix(path, (".gguf",)):
        return read_header(path)
    check_file(path)
    found = read_gguf(path)
    return Header(found.tensors, found.metadata | {ARCHITECTURE: str(found.architecture)}, found.numbers)


def recognize_header(path: str, header: Header) -> RecognizedFile:
    """What the file `path` with this header is."""
    names, size = header.tensors.keys(), sum(tensor.size for tensor in header.tensors.values())
    kind, parts, detail = _kind(Path(path).name, header)
    version = None if kind in (FileKind.LTX_VIDEO, FileKind.UNKNOWN) else _version(header, parts)
    if kind in (FileKind.MODEL, FileKind.PARTS) and "transformer" in parts:
        by_name = "distilled by its name" if is_named_distilled(path) else ""
        detail = by_name or "distilled or not: the file does not tell"
    if ARCHITECTURE in header.metadata:
        detail = f"{detail}, " if detail else ""
        detail += f"architecture {header.metadata[ARCHITECTURE]}, {len(names)} tensor{'' if len(names) == 1 else 's'}"
        kind = FileKind.GGUF if parts and kind is not FileKind.TEXT_ENCODER else kind
    return RecognizedFile(path, kind, version, parts, size, form_of(header) or precision(header), detail)


def is_named_distilled(path: str) -> bool:
    """Whether the name of a file says that its weights are distilled; nothing else in a file does."""
    return "distill" in Path(path).name.lower()


def precision(*headers: Header) -> str:
    """The dtypes of the tensors, by bytes, the largest share first; those below 1 % are left out."""
    shares: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors.values():
            shares[tensor.dtype] += tensor.size
    total = sum(shares.values())
    return " and ".join(dtype for dtype, size in shares.most_common() if size * 100 >= total) or "empty"


def _kind(file: str, header: Header) -> tuple[FileKind, tuple[str, ...], str]:
    tensors, architecture = header.tensors, header.metadata.get(ARCHITECTURE)
    if is_encoder(architecture):
        return FileKind.TEXT_ENCODER, (), ""
    if architecture == PROJECTOR:
        return FileKind.PROJECTOR, (), ""
    if any(map(is_dora, tensors)):
        return FileKind.DORA, (), ""
    if adapters := set(filter(None, map(other_adapter, tensors))):
        return FileKind.OTHER_ADAPTER, (), ", ".join(sorted(adapters))
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if _is_factor(name) and tensor.shape}
    if ranks and sign_of_ic_lora(file, header):
        return FileKind.IC_LORA, (), ""
    if ranks:
        return FileKind.LORA, (), f"rank {', '.join(map(str, sorted(ranks)[:5]))}"
    if {"initial_conv.weight", "final_conv.weight"} <= tensors.keys():
        return FileKind.UPSAMPLER, (), _direction(tensors)
    parts = tuple(_parts(header))
    if "transformer" in parts and not any("audio_patchify_proj" in name or "audio_proj_in" in name for name in tensors):
        return FileKind.LTX_VIDEO, (), ""
    if "transformer" not in parts and (prefix := _unknown_prefix(tensors)):
        return FileKind.OTHER_NAMES, (), f"they begin with {prefix:.50}"
    if {"transformer", "vae"} <= set(parts):
        return FileKind.MODEL, parts, ""
    if "text_encoder" in parts and not all(any(name.endswith(end) for name in tensors) for end in _ONLY_IN_GEMMA):
        return FileKind.OTHER_ENCODER, (), ""
    if "text_encoder" in parts:
        return FileKind.TEXT_ENCODER, parts[1:], ""
    return (FileKind.PARTS, parts, "") if parts else (FileKind.UNKNOWN, (), "")


def _unknown_prefix(names: Iterable[str]) -> str | None:
    """What is before the names of a transformer of LTX-2; None if it is not in the file."""
    found = (re.fullmatch(r"(.+\.)audio_(?:patchify_proj|proj_in)\.weight", name) for name in names)
    return next((match[1] for match in found if match), None)


def _is_factor(name: str) -> bool:
    parsed = parse(name)
    return parsed is not None and parsed[1] is Role.DOWN


def _direction(tensors: Mapping[str, StoredTensor]) -> str:
    dims = {len(tensor.shape) for name, tensor in tensors.items() if name.startswith("upsampler.") and "weight" in name}
    return "in time" if 5 in dims else "in space"


def _parts(header: Header) -> Iterable[str]:
    """The parts of a model in a file, with the text encoder first."""
    bare = [bare_name(name) for name in header.tensors]

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in bare)

    if has("model.layers.", "model.embed_tokens.", "language_model.", "model.language_model."):
        yield "text_encoder"
    if has("transformer_blocks.") and has("patchify_proj.", "proj_in."):
        yield "transformer"
    if has("video_embeddings_connector.", "video_connector."):
        yield "connectors"
    if has("text_embedding_projection.", "text_proj_in.", "video_text_proj_in."):
        yield "text projections"
    vae = config_of(header).get("vae")
    diffuses = isinstance(vae, dict) and "Diffusion" in str(vae.get("_class_name"))
    decoder = "diffusion decoder" if diffuses or has("decoder.t_embedder.", "vae.decoder.t_embedder.") else "vae"
    if has("vae.") or (has("encoder.", "decoder.") and has("per_channel_statistics.", "latents_mean")):
        yield decoder
    if has("audio_vae."):
        yield "audio_vae"
    if has("vocoder."):
        yield "vocoder"
    if has("duration_head."):
        yield "duration_head"


def _version(header: Header, parts: Iterable[str]) -> str | None:
    """By `model_version`, else by the transformer's config, else by the names of tensors."""
    written = str(header.metadata.get("model_version", "")).replace("-", ".").split(".")
    if len(written) >= 2 and written[0].isdigit() and written[1].isdigit():
        return f"{written[0]}.{written[1]}"
    config = config_of(header).get("transformer")
    if isinstance(config, dict):
        if config.get("use_keyframes_abs_pos_embedding") or config.get("ff_bias") is False:
            return "2.5"
        return "2.3" if config.get("cross_attention_adaln") else "2.0"
    if "transformer" not in parts:
        return _version_of_part(header)
    return version_of_names(header.tensors)


def _version_of_part(header: Header) -> str | None:
    """What tells versions apart in parts without a transformer; None if 2.3 and 2.5 have the same, or nothing does."""
    names = header.tensors
    if _GEMMA_4 in header.metadata.get("gemma_config", "") or any(name.endswith(ONLY_IN_GEMMA_4) for name in names):
        return "2.5"
    if "text_embedding_projection.aggregate_embed.weight" in names:
        return "2.0"
    layers = [name for name in names if "_connector.transformer_" in name]
    if layers and not any("to_gate_logits" in name for name in layers):
        return "2.0"
    blocks = {name.partition("decoder.up_blocks.")[2].partition(".")[0] for name in names} & {"6", "7"}
    return "2.0" if blocks == {"6"} or "vocoder.conv_pre.weight" in names else None


def config_of(header: Header) -> dict[str, Any]:
    """The `config` in the metadata of the authors' files, by component; empty if there is none."""
    try:
        config = json.loads(header.metadata.get("config", "{}"))
    except (ValueError, TypeError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
