"""What a model consists of: the config of each component, and where each of its tensors is. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ltx2.checkpoints.formats.weight_files import StoredTensor
from ltx2.checkpoints.variant import Config, Variant


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file. dtype: as the file names it, such as BF16, or Q8_0 in a GGUF file.

    begin, size: its bytes in the file. scale: the place of the float32 factor of a float8 tensor; None is 1.
    added: what its writer added to every number.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int
    scale: Stored | None = None
    added: float = 0.0

    @classmethod
    def of(cls, file: Path, name: str, tensor: StoredTensor, scale: Stored | None = None, added: float = 0.0) -> Stored:
        """The tensor `name` of `file`, as its header says."""
        return cls(file, name, tensor.dtype, tensor.shape, tensor.begin, tensor.size, scale, added)

    def read(self) -> bytes:
        """The bytes of the tensor, for small ones."""
        with self.file.open("rb") as file:
            file.seek(self.begin)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class Component:
    """A component in files. config: of its class in diffusers. tensors: by the name that they have in that class."""

    name: str
    config: Config
    tensors: Mapping[str, Stored]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is in."""
        return files_of(self.tensors.values())


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """The text encoder of a model in files: a folder of transformers, or a file.

    config: of transformers. tokenizer: the folder of the tokenizer, or None if the file has it. tensors: those of the
    language model in a file, by the names that transformers has for them. assets: files that are stored as tensors, by
    their name. A GGUF file has no such files, but a vocabulary, see `ltx2.checkpoints.formats.vocabulary`.
    """

    source: Path
    config: Config
    tokenizer: Path | None
    tensors: Mapping[str, Stored]
    assets: Mapping[str, Stored]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model whose components are in files, not folders. text_encoder: None if it is fetched later."""

    named: Path
    variant: Variant
    components: Mapping[str, Component]
    scheduler: Config
    text_encoder: TextEncoder | None


def files_of(tensors: Iterable[Stored]) -> tuple[Path, ...]:
    """The files that `tensors` are in, each once."""
    return tuple(dict.fromkeys(tensor.file for tensor in tensors))
