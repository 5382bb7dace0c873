"""The duration head of LTX-2.5: how long the shot is that a prompt describes.

Shapes and arithmetic are those of diffusers' `LTX2DurationHead`, whose output is `exp` of log seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.ltx2 import LTX2DurationHead
from torch import Tensor

from ltx2.checkpoints.duration_head import CLASS, DURATION_FOLDER, head_in_files
from ltx2.checkpoints.formats.weight_files import read_config
from ltx2.checkpoints.hub.fetching import fetch_folder
from ltx2.checkpoints.hub.files import fetch_files
from ltx2.checkpoints.resolve import FileModel, HubModel
from ltx2.errors import CheckpointError, RequestError
from ltx2.model.denoising.stage_loras import StageLoras
from ltx2.model.finite import check_finite_weights
from ltx2.model.render_context import render_context
from ltx2.model.text.prompts import PromptEncoder
from ltx2.model.weights.file_loading import load_component
from ltx2.model.weights.loading import load_errors, load_part

SHORTEST_S, LONGEST_S = 1.0, 20.0
"""The answer is within these bounds, as in the code of the model's authors."""


class DurationHead:
    """The duration head of one checkpoint, 4 MB, loaded on first use; float32 on the CPU, whatever the engine uses.

    source: the checkpoint; None is one without a duration head. loras: of the engine, whose job has its own weights.
    """

    def __init__(
        self,
        source: Path | HubModel | FileModel | None,
        prompts: PromptEncoder,
        loras: StageLoras,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self._source, self._prompts, self._loras, self._stream = source, prompts, loras, stream
        self._model: Any = None

    def __call__(self, prompt: str) -> float:
        """The seconds of the shot that `prompt` describes, 1 to 20.

        Raises:
            RequestError: the checkpoint has no duration head. CheckpointError: it is damaged, or of another model.
        """
        if self._model is None:
            self._model = self._loaded()
        with render_context("finding a duration", self._stream):
            self._loras.use()
            encoded = self._prompts.encode(prompt)
            return self._seconds(encoded.video.float().cpu(), encoded.audio.float().cpu())

    def _seconds(self, video: Tensor, audio: Tensor) -> float:
        try:
            found = float(self._model(video, audio))
        except RuntimeError as error:
            raise CheckpointError(f"the duration head of {self._name} is that of another model: {error}") from None
        return min(max(found, SHORTEST_S), LONGEST_S)

    @property
    def _name(self) -> object:
        return self._source.named if isinstance(self._source, FileModel) else self._source or "this model"

    def _loaded(self) -> Any:
        model = self._from_files() if isinstance(self._source, FileModel) else self._from_folder()
        if model is None:
            raise RequestError(
                f"{self._name} has no {DURATION_FOLDER}: use a model that has one, such as Lightricks/LTX-2.5-Diffusers"
            )
        check_finite_weights(model, f"the duration head of {self._name}")
        return model.eval()

    def _from_folder(self) -> Any:
        source = self._source
        assert not isinstance(source, FileModel)
        if isinstance(source, HubModel):
            source = fetch_folder(source, DURATION_FOLDER)
        if source is None or not (folder := source / DURATION_FOLDER).joinpath("config.json").is_file():
            return None
        read_config(folder, CLASS)
        with load_errors(folder):
            return load_part(LTX2DurationHead, folder, torch.float32)

    def _from_files(self) -> Any:
        assert isinstance(self._source, FileModel)
        named = fetch_files(self._source).components["transformer"].files[0]
        found = head_in_files(named)
        if found is None:
            return None
        with load_errors(named):
            return load_component(LTX2DurationHead, found, torch.float32)
