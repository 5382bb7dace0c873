"""Fusing LoRAs into the weights of a loaded pipeline, and changing them later without loading it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ltx2.checkpoints.components import Component
from ltx2.checkpoints.formats.weight_files import weight_map
from ltx2.checkpoints.loras.file import Factors, match, read_lora
from ltx2.checkpoints.loras.lora import Lora
from ltx2.checkpoints.loras.names import Layer
from ltx2.checkpoints.resolve import WEIGHTS
from ltx2.errors import CheckpointError, EngineMemoryError, UnsupportedModelError
from ltx2.model.weights.file_loading import FLOAT8, STORED_IN
from ltx2.model.weights.stored_tensors import StoredTensors

COMPONENTS = ("transformer", "connectors")

Stamp = tuple[int, int]
Fused = tuple[tuple[Path, Stamp, float], ...]
"""LoRAs in their order: file, which file that was, and strength."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What one LoRA adds to one layer."""

    file: Path
    factors: Factors
    strength: float


class LoraFusion:
    """The LoRAs in a pipeline's weights. A weight depends on its checkpoint and the current LoRAs alone.

    A weight is the checkpoint's plus all changes, summed in float32 and rounded once. To change the LoRAs, touched
    weights are read from the checkpoint again; nothing is subtracted. Must be made before the pipeline is accelerated.
    device: where weights are computed, wherever they are kept.
    """

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self._components = {name: getattr(pipeline, name) for name in COMPONENTS}
        self._device = device
        self._dtypes: dict[Layer, torch.dtype] = {}
        self._shapes: dict[Layer, tuple[int, int]] = {}
        self._in_blocks: set[Layer] = set()
        for component, model in self._components.items():
            for name, module in model.named_modules():
                layer = Layer(component, name)
                if isinstance(module, nn.Linear):
                    self._dtypes[layer] = module.weight.dtype
                    self._shapes[layer] = (module.out_features, module.in_features)
                elif hasattr(module, "store"):  # float8, as its file has it
                    self._dtypes[layer] = model.dtype
                    self._shapes[layer] = tuple(module.weight.shape)
                elif hasattr(module, "blocks"):
                    self._in_blocks.add(layer)
                    self._shapes[layer] = (module.out_features, module.in_features)
        self._stamps = self._base_stamps()
        self._touched: set[Layer] = set()
        self.renamed: Callable[[str], str] = str
        """The current name of a layer of the transformer; acceleration renames some."""
        self.of_connectors: Fused = ()
        """The LoRAs that change the connectors, and thus encoded prompts."""
        self.loras: tuple[tuple[Lora, Path], ...] = ()
        """The LoRAs that were fused last."""
        self.current: Fused | None = ()
        """Which files they were, and thus what the weights are; None after an error."""

    @property
    def can_change(self) -> bool:
        """Whether the files that the pipeline was loaded from are there, and the same."""
        return bool(self._stamps) and self._base_stamps() == self._stamps

    def check(self, file: Path) -> None:
        """Check that the LoRA in `file` is one for this model; raises the errors of `match`. Reads its header only."""
        match(file, read_lora(file), self._shapes)

    def fuse(self, loras: Sequence[tuple[Lora, Path]]) -> None:
        """Make the weights those of the checkpoint with `loras`, whose sum does not depend on earlier ones.

        After an error the weights are those of no set of LoRAs; another call makes them right.

        Raises:
            UnsupportedModelError: a LoRA is of another kind or for another model, or has numbers that are not finite.
            CheckpointError: a file cannot be read.
            EngineMemoryError: it does not fit into memory.
        """
        self.loras, self.current = tuple(loras), None
        changes: dict[Layer, list[_Change]] = {}
        connectors = []
        fused = fused_of(loras)
        for lora, file in loras:
            matched = match(file, read_lora(file), self._shapes)
            if fixed := sorted(self._in_blocks & matched.keys()):
                raise UnsupportedModelError(
                    f"the LoRA {file} changes {fixed[0]}, whose weight stays in the blocks of a GGUF file; use "
                    "the model in bf16 or fp8"
                )
            if lora.weight:
                for layer, factors in matched.items():
                    changes.setdefault(layer, []).append(_Change(file, factors, lora.weight))
                if any(layer.component == "connectors" for layer in matched):
                    connectors.append((file, _stamp(file), lora.weight))
        threads = torch.get_num_threads()
        if self._device.type == "cpu":
            torch.set_num_threads(1)  # their number changes the order of sums
        try:
            with torch.no_grad(), ExitStack() as files:
                read = _Reader(files)
                for layer in sorted(self._touched | changes.keys()):
                    self._rebuild(layer, changes.get(layer, []), read)
        except (torch.OutOfMemoryError, MemoryError) as exc:
            raise EngineMemoryError(f"LoRAs do not fit into memory: {exc}") from exc
        except (OSError, SafetensorError) as exc:
            raise CheckpointError(f"cannot read weights: {exc}") from exc
        finally:
            torch.set_num_threads(threads)
        self._touched = set(changes)
        self.of_connectors = tuple(connectors)
        self.current = fused

    def _rebuild(self, layer: Layer, changes: Sequence[_Change], read: _Reader) -> None:
        module = self._module(layer)
        stored = self._stored(layer.component)
        if not changes and stored is not None and hasattr(module, "store"):
            place = stored.tensors[f"{layer.name}.weight"]
            if place.dtype == FLOAT8:  # not converted from other numbers, which would be rounded
                module.restore(read.stored.raw(place), read.stored.scale(place))
                return
        weight = self._base(layer, module, read).to(self._device)
        if changes:
            total = weight.to(torch.float32, copy=True)
            for change in changes:
                down, up = (self._finite(change.file, name, read) for name in (change.factors.down, change.factors.up))
                scale = change.factors.scale
                if change.factors.alpha is not None:
                    scale = self._finite(change.file, change.factors.alpha, read).item() / change.factors.rank
                total.addmm_(up, down, alpha=scale * change.strength)
            weight = total.to(self._dtypes[layer])
            if not bool(weight.isfinite().all()):
                raise UnsupportedModelError(f"LoRAs make weights of {layer} that are not finite: {changes[-1].file}")
        self._touched.add(layer)
        if isinstance(module, nn.Linear):
            module.weight.copy_(weight)
        else:
            module.store(weight)

    def _base(self, layer: Layer, module: Any, read: _Reader) -> Tensor:
        """The checkpoint's weight. One that no LoRA has changed is in the model already, if it is not quantized."""
        if layer not in self._touched and isinstance(module, nn.Linear):
            return module.weight.detach()
        name = f"{layer.name}.weight"
        if (stored := self._stored(layer.component)) is not None:
            return read.stored.read(stored.tensors[name], self._dtypes[layer])
        folder = self._folder(layer.component)
        if folder is None:
            raise CheckpointError("the model was not loaded from files, so its LoRAs cannot be changed")
        return read.base(folder, layer.component, name).to(self._dtypes[layer])

    def _finite(self, file: Path, name: str, read: _Reader) -> Tensor:
        tensor = read(file, name).to(self._device).float()
        if not bool(tensor.isfinite().all()):
            raise UnsupportedModelError(f"the LoRA {file} has numbers in {name} that are not finite")
        return tensor

    def _module(self, layer: Layer) -> Any:
        name = self.renamed(layer.name) if layer.component == "transformer" else layer.name
        return self._components[layer.component].get_submodule(name)

    def _stored(self, component: str) -> Component | None:
        found: Component | None = getattr(self._components[component], STORED_IN, None)
        return found

    def _folder(self, component: str) -> Path | None:
        named = self._components[component].config.get("_name_or_path")
        return Path(named) if named and Path(named).is_dir() else None

    def _base_stamps(self) -> dict[Path, Stamp]:
        """Sizes and times of the files of all components; empty if one was not loaded from files."""
        stamps: dict[Path, Stamp] = {}
        for component in COMPONENTS:
            stored, folder = self._stored(component), self._folder(component)
            if stored is None and folder is None:
                return {}
            try:
                files = stored.files if stored else folder.glob("*.safetensors*") if folder else ()
                stamps |= {file: _stamp(file) for file in files}
            except OSError:
                return {}
        return stamps


class _Reader:
    """Reads tensors of safetensors files, each opened once."""

    def __init__(self, files: ExitStack) -> None:
        self._stack = files
        self.stored = StoredTensors()
        self._open: dict[Path, Any] = {}
        self._maps: dict[Path, dict[str, Path]] = {}

    def __call__(self, file: Path, tensor: str) -> Tensor:
        if file not in self._open:
            self._open[file] = self._stack.enter_context(safe_open(file, framework="pt"))
        found: Tensor = self._open[file].get_tensor(tensor)
        return found

    def base(self, folder: Path, component: str, tensor: str) -> Tensor:
        """A tensor of a component, whole or in shards."""
        if folder not in self._maps:
            self._maps[folder] = weight_map(folder, WEIGHTS[component])
        if tensor not in self._maps[folder]:
            raise CheckpointError(f"{folder} lacks {tensor}")
        return self(self._maps[folder][tensor], tensor)


def fused_of(loras: Sequence[tuple[Lora, Path]]) -> Fused:
    """What `LoraFusion.current` is with these LoRAs in the weights. CheckpointError: a file cannot be read."""
    try:
        return tuple((file, _stamp(file), lora.weight) for lora, file in loras)
    except OSError as exc:
        raise CheckpointError(f"cannot read a LoRA: {exc}") from exc


def _stamp(file: Path) -> Stamp:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
