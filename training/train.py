"""Train the small LTX-2: `python training/train.py vae`, then `audio`, `vocoder`, `transformer` and `export`.

Every call resumes its stage. A stage is finished after its number of steps. With `--start FOLDER`, the transformer of a
trained model is trained further, and its other parts stay as they are.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from training import audio, transformer, vae
from training.loop import Stage, load_weights, run
from training.model import Model, build, load

STEPS = {"vae": 11_000, "audio": 2_700, "vocoder": 5_000, "transformer": 42_000}
BATCH = {"vae": 128, "audio": 32, "vocoder": 32, "transformer": 128}
_NEEDS = {"vae": (), "audio": (), "vocoder": ("audio",), "transformer": ("vae", "audio")}
_MEASURED = 64  # clips from which the statistics of latents are measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STEPS, "export"))
    parser.add_argument("--out", type=Path, default=Path("out/training"), help="output folder, with a folder per stage")
    parser.add_argument("--minutes", type=float, default=8.0, help="stop after this time; 8 by default")
    parser.add_argument("--steps", type=int, help="steps of the whole stage; by default as for the shipped model")
    parser.add_argument("--batch", type=int, help="clips per step; by default as for the shipped model")
    parser.add_argument(
        "--pool", type=int, default=1000, help="recordings of each kind that the transformer's batches are mixed from"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="processes that make clips; one per core by default"
    )
    parser.add_argument(
        "--start", type=Path, help="a model: train its transformer and leave its other parts as they are"
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="the transformer's highest learning rate")
    parser.add_argument("--plain", action="store_true", help="train without CUDA graphs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if torch.device(options.device).type == "cuda":  # process-wide, so not on a CPU
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    model = load(options.start) if options.start else build()
    model.vae.to(options.device)
    model.audio_vae.to(options.device)
    if options.start and options.stage not in ("transformer", "export"):
        raise SystemExit("--start is for the stages transformer and export")
    if options.stage == "export":
        load_stages(model, options.out, *(["transformer"] if options.start else STEPS)).save(options.out / "model")
    else:
        load_stages(model, options.out, *([] if options.start else _NEEDS[options.stage]))
        run(_stage(model, options), options.out / options.stage, minutes=options.minutes)


def load_stages(model: Model, out: Path, *stages: str) -> Model:
    """Load the weights of these trained stages from `out` into `model`, and set the statistics of its latents."""
    parts = {
        "vae": model.vae,
        "audio": model.audio_vae,
        "vocoder": model.vocoder,
        "transformer": transformer.Denoiser(model),
    }
    for stage in stages:
        folder = out / stage / ("average" if stage == "transformer" else "weights")
        if not load_weights(parts[stage], folder):
            raise SystemExit(f"{folder} has no weights: run `python training/train.py {stage}` first")
    if "vae" in stages:
        vae.set_statistics(model.vae, clips=_MEASURED)
    if "audio" in stages:
        audio.set_statistics(model.audio_vae, clips=_MEASURED)
    return model


def _stage(model: Model, options: argparse.Namespace) -> Stage:
    device = torch.device(options.device)
    steps, size = options.steps or STEPS[options.stage], options.batch or BATCH[options.stage]
    if options.stage == "vae":
        return vae.stage(model.vae, steps=steps, size=size, processes=options.processes)
    if options.stage == "audio":
        return audio.autoencoder_stage(model.audio_vae, steps=steps, size=size, processes=options.processes)
    if options.stage == "vocoder":
        vocoder = model.vocoder.to(device)
        return audio.vocoder_stage(vocoder, model.audio_vae, steps=steps, size=size, processes=options.processes)
    return transformer.stage(
        model,
        steps=steps,
        size=size,
        pool=options.pool,
        processes=options.processes,
        device=device,
        rate=options.rate,
        graphs=not options.plain,
    )


if __name__ == "__main__":
    main()
