"""The LoRAs of each stage: a job's, and one more in the second stage if the request names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltx2.checkpoints.loras.lora import Lora
from ltx2.errors import CheckpointError, RequestError
from ltx2.model.text.prompts import PromptEncoder
from ltx2.model.weights.loading import find_loras
from ltx2.model.weights.lora_fusion import LoraFusion, fused_of


class StageLoras:
    """Switches the LoRAs in a pipeline's weights, and thus in its encoded prompts.

    A stage has the bytes of a model that was loaded with its LoRAs: see `LoraFusion`. fusion: holds the job's LoRAs;
    None if they cannot be switched.
    """

    def __init__(self, fusion: LoraFusion | None, prompts: PromptEncoder) -> None:
        self._fusion = fusion
        self._prompts = prompts
        self._job = fusion.loras if fusion is not None else ()
        self._found: dict[Lora, tuple[Lora, Path]] = {}
        if fusion is not None:
            prompts.use_weights(fusion.of_connectors)

    def set_job(self, loras: Sequence[Lora]) -> bool:
        """Change to the LoRAs of another job; see `Engine.set_loras`."""
        if self._fusion is None or not self._fusion.can_change:
            return False
        self._job = tuple(find_loras(loras))
        self._switch(self._fusion, self._job)
        return True

    def find(self, lora: Lora) -> None:
        """Find the file of a second stage's LoRA, and check that it can be used.

        Raises:
            RequestError: LoRAs cannot be switched. CheckpointError: it is missing, or not for this model.
        """
        if self._fusion is None:
            raise RequestError(
                "stage2_lora: LoRAs cannot be switched between stages with sequential offload: remove it, or use "
                "another offload"
            )
        if lora not in self._found:  # a repository is asked once
            self._found = {lora: find_loras([lora])[0]}
        self._fusion.check(self._found[lora][1])

    def use(self, lora: Lora | None = None) -> None:
        """Make the weights those of the job and, for its second stage, of `lora`, which `find` has found.

        Raises:
            CheckpointError: the model's files, which are needed for that, have changed. EngineMemoryError.
        """
        if self._fusion is None:
            return
        wanted = self._job if lora is None else (*self._job, self._found[lora])
        if self._fusion.current == fused_of(wanted):
            return
        if not self._fusion.can_change:
            raise CheckpointError("the files of the model have changed since it was loaded: restart the worker")
        self._switch(self._fusion, wanted)

    def _switch(self, fusion: LoraFusion, loras: Sequence[tuple[Lora, Path]]) -> None:
        self._prompts.finish()  # nothing is encoded while the weights change
        fusion.fuse(loras)
        self._prompts.use_weights(fusion.of_connectors)
