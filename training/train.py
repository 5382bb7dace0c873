"""Teach the small LTX-2: `python training/train.py vae`, then `audio`, `vocoder` and `transformer`, then `export`.

Every call goes on from where the last one of its stage ended; a stage is done when its steps are.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it finds the packages beside it

from training import audio, transformer, vae
from training.loop import Stage, load_weights, run
from training.model import Model, build

STEPS = {"vae": 11_000, "audio": 2_700, "vocoder": 5_000, "transformer": 42_000}
BATCH = {"vae": 128, "audio": 32, "vocoder": 32, "transformer": 128}
_NEEDS = {"vae": (), "audio": (), "vocoder": ("audio",), "transformer": ("vae", "audio")}
_MEASURED = 64  # clips from which the spread of latents is known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STEPS, "export"))
    parser.add_argument("--out", type=Path, default=Path("out/training"), help="where what was learned lies")
    parser.add_argument("--minutes", type=float, default=8.0, help="end after so long; 8 by default")
    parser.add_argument("--steps", type=int, help="of the whole stage; by default what the shipped model took")
    parser.add_argument("--batch", type=int, help="clips per step; by default what the shipped model took")
    parser.add_argument(
        "--pool", type=int, default=1000, help="recordings of each kind that the transformer's batches are mixed from"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="that make clips; one per core by default"
    )
    parser.add_argument("--plain", action="store_true", help="learn without CUDA graphs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    if torch.device(asked.device).type == "cuda":  # what else runs in this process on a CPU keeps its precision
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    model = build()
    model.vae.to(asked.device)
    model.audio_vae.to(asked.device)
    if asked.stage == "export":
        learned(model, asked.out, *STEPS).save(asked.out / "model")
    else:
        learned(model, asked.out, *_NEEDS[asked.stage])
        run(_stage(model, asked), asked.out / asked.stage, minutes=asked.minutes)


def learned(model: Model, out: Path, *stages: str) -> Model:
    """`model` with what these stages have learned in `out`, and with the spread of its latents measured."""
    parts = {
        "vae": model.vae,
        "audio": model.audio_vae,
        "vocoder": model.vocoder,
        "transformer": transformer.Denoiser(model),
    }
    for stage in stages:
        folder = out / stage / ("average" if stage == "transformer" else "weights")
        if not load_weights(parts[stage], folder):
            raise SystemExit(f"nothing is learned in {folder}: run `python training/train.py {stage}` first")
    if "vae" in stages:
        vae.settle_statistics(model.vae, clips=_MEASURED)
    if "audio" in stages:
        audio.settle_statistics(model.audio_vae, clips=_MEASURED)
    return model


def _stage(model: Model, asked: argparse.Namespace) -> Stage:
    device = torch.device(asked.device)
    steps, size = asked.steps or STEPS[asked.stage], asked.batch or BATCH[asked.stage]
    if asked.stage == "vae":
        return vae.stage(model.vae, steps=steps, size=size, processes=asked.processes)
    if asked.stage == "audio":
        return audio.autoencoder_stage(model.audio_vae, steps=steps, size=size, processes=asked.processes)
    if asked.stage == "vocoder":
        vocoder = model.vocoder.to(device)
        return audio.vocoder_stage(vocoder, model.audio_vae, steps=steps, size=size, processes=asked.processes)
    return transformer.stage(
        model, steps=steps, size=size, pool=asked.pool, processes=asked.processes, device=device, graphs=not asked.plain
    )


if __name__ == "__main__":
    main()
