"""Measures loading LTX-2.3 in one file at its published size, with zeros for weights: time, and memory of the host.

The file takes no disk space. Its text encoder is not loaded. With a GPU, the components are moved to it one by one.

    python -m benchmarks.loading --dtype BF16
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2VocoderWithBWE

from benchmarks.full import CONNECTORS, TRANSFORMER, VAE
from ltx2.acceleration.stored_weights import StoredWeights
from ltx2.checkpoints.files.model import describe
from ltx2.model.weights.file_loading import load_component
from ltx2.model.weights.placement import computes_float8

WIDTHS = {"BF16": 2, "F8_E4M3": 1, "F32": 4}


def main() -> None:
    """Print one line per component, and the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("BF16", "F8_E4M3"), default="BF16", help="of the blocks' weights")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ltx-2.3-distilled.safetensors"
        write_zeros(file, options.dtype)
        print(f"a file of {file.stat().st_size / 1e9:.1f} GB; before: {memory()}")
        started = time.monotonic()
        model = describe(file, None, encoder_later=True)
        print(f"described in {time.monotonic() - started:.2f} s")
        keep = StoredWeights(float8=computes_float8(device))
        kept = []
        for name, component in published().items():
            begin = time.monotonic()
            dtype = torch.float32 if name == "vocoder" else torch.bfloat16
            loaded = load_component(
                type(component), model.components[name], dtype, keep if name == "transformer" else None
            )
            built = time.monotonic() - begin
            kept.append(loaded.to(device))
            if device.type == "cuda":
                torch.cuda.synchronize()
            print(f"{name:<12} {built:6.2f} s, on {device} after {time.monotonic() - begin:6.2f} s; {memory()}")
        print(f"peak: {memory()}")


def memory() -> str:
    """Memory of this process that is its own, and that of mapped files, which the system may drop at any time."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    own, mapped, peak = (int(lines[key].split()[0]) / 1e6 for key in ("RssAnon", "RssFile", "VmHWM"))
    return f"own {own:.2f} GB, mapped {mapped:.2f} GB, peak of both {peak:.2f} GB"


def write_zeros(file: Path, dtype: str) -> None:
    """Write a model in one file at the published size, with the names of diffusers and the prefixes of the authors."""
    header: dict[str, Any] = {}
    end = 0
    for component, model in published().items():
        prefix = f"{component}." if component in ("vae", "audio_vae", "vocoder") else "model.diffusion_model."
        for name, tensor in model.state_dict().items():
            large = "transformer_blocks" in name and name.endswith(".weight") and tensor.ndim == 2
            stored = dtype if large and "to_gate" not in name and "connector" not in name else "BF16"
            begin, end = end, end + WIDTHS[stored] * math.prod(tensor.shape)
            header[prefix + name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)


def published() -> dict[str, Any]:
    """The components of LTX-2.3 without memory."""
    with init_empty_weights():
        return {
            "transformer": LTX2VideoTransformer3DModel(**TRANSFORMER),
            "connectors": LTX2TextConnectors(**CONNECTORS),
            "vae": AutoencoderKLLTX2Video(**VAE),
            "audio_vae": AutoencoderKLLTX2Audio(),
            "vocoder": LTX2VocoderWithBWE(),
        }


if __name__ == "__main__":
    main()
