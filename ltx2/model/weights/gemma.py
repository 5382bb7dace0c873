"""The text encoders of LTX-2 without what prompts do not need: towers for pictures and sound, the head for tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Gemma3Config, Gemma3Model, Gemma3PreTrainedModel, Gemma4UnifiedConfig, Gemma4UnifiedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

_NAMES = {r"^(?:model\.)?language_model\.(?:model\.)?": "language_model."}
"""Where files of different ages have the language model."""


class Gemma3(Gemma3Model):  # type: ignore[misc]  # transformers has it as Any
    """Gemma 3 as a text encoder, of LTX-2.0 and 2.3. Its vision tower, 0.84 GB, is neither made nor loaded."""

    _keys_to_ignore_on_load_unexpected = (r"\b(vision_tower|multi_modal_projector|lm_head)\.",)

    def __init__(self, config: Gemma3Config) -> None:
        Gemma3PreTrainedModel.__init__(self, config)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = Gemma3TextModel(config.text_config)
        self.post_init()

    @classmethod
    def options(cls, folder: Path) -> dict[str, Any]:
        """What `from_pretrained` needs for the files in `folder`."""
        return {"key_mapping": _NAMES}


class Gemma4(Gemma4UnifiedModel):  # type: ignore[misc]
    """Gemma 4 as a text encoder, of LTX-2.5."""

    _keys_to_ignore_on_load_unexpected = (r"\b(embed_vision|embed_audio|vision_embedder|lm_head)\.",)

    @classmethod
    def options(cls, folder: Path) -> dict[str, Any]:
        """What `from_pretrained` needs for the files in `folder`."""
        config = Gemma4UnifiedConfig.from_pretrained(folder)
        config.vision_config = config.audio_config = None
        return {"config": config}
