"""The names that callers may use for models, LoRAs, text encoders and upsamplers; no path is accepted over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltx2.checkpoints.resolve import SMALL_MODELS
from tasks.errors import ConfigError, SpecError
from tasks.field_errors import explain, field_path, shown
from tasks.server.http.answers import without_paths
from tasks.settings import Settings
from tasks.spec.places import TextError
from tasks.spec.yaml_text import parse_yaml

T = TypeVar("T")
DEFAULT = "default"
"""The name of LONGTAKE_MODEL."""
LARGEST_TABLE_BYTES = 1024 * 1024


class ModelEntry(BaseModel):
    """A model by its name. model: as in a spec. spec: other fields of a spec, for requests that do not give them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    spec: dict[str, Any] = Field(default_factory=dict)


class NameTable(BaseModel):
    """Names of models, and of what a spec names next to its model, and what they stand for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, ModelEntry] = Field(default_factory=dict)
    loras: dict[str, str] = Field(default_factory=dict)
    text_encoders: dict[str, str] = Field(default_factory=dict)
    upsamplers: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def read(cls, settings: Settings) -> NameTable:
        """The table in the file LONGTAKE_SERVER_PARTS, with LONGTAKE_MODEL and the small models added.

        Raises:
            ConfigError: it cannot be read.
        """
        table = cls() if settings.server_parts is None else cls._from_file(settings.server_parts)
        own = {name: ModelEntry(model=name) for name in SMALL_MODELS} | {DEFAULT: ModelEntry(model=settings.model)}
        return table.model_copy(update={"models": own | table.models})

    @classmethod
    def _from_file(cls, path: Path) -> NameTable:
        try:
            with path.open("rb") as file:
                data = parse_yaml(file.read(LARGEST_TABLE_BYTES).decode())
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            problem = f"{field_path(first['loc'])}: {explain(first)}"
        except (OSError, UnicodeDecodeError, TextError) as error:
            problem = str(getattr(error, "strerror", None) or error)
        raise ConfigError(f"LONGTAKE_SERVER_PARTS: {path}: {problem}")

    def resolved(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A spec whose names are replaced by what they stand for, with the fields of its model.

        Raises:
            SpecError: a name that is not in the table.
        """
        name = spec.get("model", DEFAULT)
        entry = _found("model", name, self.models)
        found = {**entry.spec, **spec, "model": entry.model}
        for field, names in (("text_encoder", self.text_encoders), ("upsampler", self.upsamplers)):
            if spec.get(field) is not None:
                found[field] = _found(field, spec[field], names)
        if isinstance(loras := spec.get("loras"), list):
            found["loras"] = [self._lora(f"loras.{index}", lora) for index, lora in enumerate(loras)]
        if spec.get("stage2_lora") is not None:
            found["stage2_lora"] = self._lora("stage2_lora", spec["stage2_lora"])
        return found

    def name_of(self, model: str) -> str:
        """The name of a model of this table; of another one, only the end of its path."""
        names = (name for name, entry in self.models.items() if name != DEFAULT and model in (entry.model, name))
        return next(names, DEFAULT if model == self.models[DEFAULT].model else without_paths(model))

    def _lora(self, field: str, lora: Any) -> Any:
        if isinstance(lora, Mapping) and "path" in lora:
            return {**lora, "path": _found(f"{field}.path", lora["path"], self.loras)}
        return {"path": _found(field, lora, self.loras)}


def _found(field: str, name: object, names: Mapping[str, T]) -> T:
    if isinstance(name, str) and name in names:
        return names[name]
    known = f"the names are {', '.join(sorted(names))}" if names else "this server has none"
    raise SpecError(f"{field}: {shown(name)} is not a name that this server knows; {known}")
