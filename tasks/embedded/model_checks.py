"""What a render checks of its device and its model before it starts. Loads no weights, and torch only to refuse."""

from __future__ import annotations

from pathlib import Path

from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.resolve import RANDOM_MODELS, check_configs, local_name, small_folder
from ltx2.checkpoints.upsampler_files import own_upsampler
from ltx2.errors import DeviceError, RequestError
from ltx2.sampling import plan_of
from tasks.embedded.inputs import device_kind
from tasks.errors import ConfigError
from tasks.settings import Settings
from tasks.spec.schema import JobSpec


def check_device(settings: Settings) -> None:
    """Refuse settings that need a GPU on a machine without one. Engines of other modules check their own.

    Raises:
        ConfigError: names the setting.
    """
    fp8 = "fp8" in (settings.precision, settings.attention)
    wants_gpu = settings.device.startswith("cuda") or settings.gpus not in ("1", "all") or fp8
    if settings.has_custom_engine or not wants_gpu or not device_kind(settings.device).startswith("cpu"):
        return
    from ltx2.acceleration.fp8_attention import attention_of  # torch is slow to import
    from ltx2.group.rendezvous import rank_count
    from ltx2.model.weights.placement import device_of, precision_of

    try:
        rank_count(settings.gpus, settings.device)
        device = device_of(settings.device)
        if device.type == "cpu":  # some hosts, such as WSL2, have GPUs that only torch finds
            attention_of(settings.attention, device, precision_of(settings.precision, device), channels=0)
    except DeviceError as error:
        raise ConfigError(f"LONGTAKE_{error.setting.upper()}: {error}") from None


def check_sampling(spec: JobSpec, settings: Settings) -> None:
    """Refuse steps, guidance and stages that the model of `spec` cannot render.

    Only models in the layout of diffusers that are on this machine are known here.

    Raises:
        RequestError: names the parameter, and the segment if it is its own. CheckpointError: a config is damaged.
    """
    name, full = split_full(str(spec.model))
    folder = _folder(name, settings)
    if settings.has_custom_engine or not (folder / "model_index.json").is_file():
        return
    variant = check_configs(folder, full=full)
    for index, segment in enumerate(spec.segments):
        sampling = spec.sampling_of(segment)
        try:
            plan_of(sampling, variant)
        except RequestError as error:
            place = "" if sampling == spec.sampling else f"{spec.source.place('segments', index)}: "
            raise RequestError(f"{place}{error}") from None
    if spec.stages == 2 and spec.upsampler is None:
        own_upsampler(folder)


def _folder(name: str, settings: Settings) -> Path:
    if name in RANDOM_MODELS:
        return small_folder(settings.home / "models", name)
    return Path(local_name(name))
