"""The training loop of one stage. It can be interrupted; progress is kept in a folder, in files below 15 MB."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.graphs import Graphs, Step

WARM_UP = 100  # steps over which the learning rate rises in every run, because the optimizer's state is not kept
REPORT = 50
"""A point of a loss curve is the mean over this many steps."""
SAVE_S = 120.0  # between two saves of the weights, so that a run that is killed loses little


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training. step: the losses of one batch, by name; their sum is minimized.

    batches: an endless stream of random batches; its argument is the seed. steps: of the whole stage. average: the
    half-life in steps of the running average of the weights, 0 for no average. graphs: on a GPU, run steps as CUDA
    graphs; batches are dataclasses of tensors, and a step must not wait for the GPU.
    """

    name: str
    module: nn.Module
    step: Step
    batches: Callable[[int], Iterator[Any]]
    steps: int
    rate: float
    average: int = 0
    graphs: bool = False


@dataclass
class Progress:
    """Steps and seconds so far, and the loss curves: per name, the mean over every `REPORT` steps."""

    steps: int = 0
    seconds: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=dict)


def load_weights(module: nn.Module, folder: Path) -> bool:
    """Load the weights in `folder` into `module`; False if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
    if weights:
        module.load_state_dict(weights)
    return bool(weights)


def save_weights(module: nn.Module, folder: Path) -> None:
    """Write the weights of `module` to `folder`, in files below 15 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(module.state_dict(), folder, max_shard_size="14MB")


def run(stage: Stage, folder: Path, *, minutes: float) -> Progress:
    """Train `stage` for `minutes` or until it is done. Resumes from `folder` and saves its progress there.

    It is saved at the end and every SAVE_S seconds.
    """
    device = next(stage.module.parameters()).device
    progress = _progress(folder)
    load_weights(stage.module, folder / "weights")
    average = AveragedModel(stage.module, use_buffers=True) if stage.average else None
    if average:
        load_weights(average.module, folder / "average")
    rate, step = _training_step(stage, device)
    batches, began, done = stage.batches(progress.steps), time.monotonic(), 0
    saved, seconds = began, progress.seconds
    losses: list[dict[str, Tensor]] = []
    stage.module.train()
    while progress.steps < stage.steps and time.monotonic() - began < 60 * minutes:
        rate.fill_(stage.rate * _schedule(progress.steps, stage.steps, done))
        losses.append(step(next(batches)))
        if average:
            _update_average(average.module, stage.module, 0.5 ** (1 / min(stage.average, 10 + progress.steps / 5)))
        progress.steps, done = progress.steps + 1, done + 1
        if progress.steps % REPORT == 0:
            _print_losses(stage, progress, losses, time.monotonic() - began)
            losses.clear()
        progress.seconds = seconds + time.monotonic() - began
        if time.monotonic() - saved > SAVE_S:
            _save(stage, average, progress, folder)
            saved = time.monotonic()
    _save(stage, average, progress, folder)
    return progress


def _save(stage: Stage, average: AveragedModel | None, progress: Progress, folder: Path) -> None:
    save_weights(stage.module, folder / "weights")
    if average:
        save_weights(average.module, folder / "average")
    (folder / "progress.json").write_text(json.dumps(vars(progress)))


def _training_step(stage: Stage, device: torch.device) -> tuple[Tensor, Step]:
    """The learning rate, to be filled in before each step, and a function that trains on a batch."""
    rate = torch.tensor(stage.rate, device=device)
    optimizer = torch.optim.AdamW(
        stage.module.parameters(),
        lr=rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
        capturable=device.type == "cuda",
    )

    def train(batch: Any) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            losses = stage.step(batch)
        torch.autograd.backward(list(losses.values()))
        nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
        optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    return rate, Graphs(train) if stage.graphs and device.type == "cuda" else train


def _print_losses(stage: Stage, progress: Progress, losses: list[dict[str, Tensor]], seconds: float) -> None:
    """Add the means of `losses` to the curves and print them. This waits for the GPU, so it is not done every step."""
    means = {name: torch.stack([step[name] for step in losses]).mean().item() for name in losses[0]}
    for name, mean in means.items():
        progress.curves.setdefault(name, []).append(mean)
    text = "  ".join(f"{name} {mean:.5f}" for name, mean in means.items())
    print(f"{stage.name} {progress.steps}/{stage.steps}  {seconds:.0f} s  {text}", flush=True)


def _progress(folder: Path) -> Progress:
    path = folder / "progress.json"
    return Progress(**json.loads(path.read_text())) if path.exists() else Progress()


def _schedule(step: int, steps: int, since_start: int) -> float:
    """The learning rate's factor: a warm-up in every run, and a cosine to 0.01 over the whole stage."""
    return min(1.0, (since_start + 1) / WARM_UP) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


def _update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    update(list(average.parameters()), list(module.parameters()), 1)
