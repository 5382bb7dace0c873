"""Plot the loss curves of all stages: `python training/curves.py out/training -o docs/training.png`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from ltx2.quality.continuity import Continuity
from ltx2.quality.plots import Panel, chart
from training.loop import REPORT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="output folder of the training")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    stages = {path.parent.name: json.loads(path.read_text()) for path in sorted(options.folder.glob("*/progress.json"))}
    found = {stage: progress for stage, progress in stages.items() if progress["curves"]}
    if not found:
        raise SystemExit(f"{options.folder} has no stage that was trained for {REPORT} steps")
    options.out.write_bytes(picture(found))
    for stage, progress in found.items():
        last = "  ".join(f"{name} {curve[-1]:.5f}" for name, curve in progress["curves"].items())
        print(f"{stage:12} {progress['steps']:6} steps  {progress['seconds'] / 60:5.1f} min  {last}")


def picture(stages: dict[str, dict[str, dict[str, list[float]]]]) -> bytes:
    """A PNG with a panel per stage: the logarithm of each loss over the stage, from 0 to 1."""
    panels = [
        Panel(f"{stage}, log10 of the loss", {name: _logarithm(curve) for name, curve in progress["curves"].items()})
        for stage, progress in stages.items()
    ]
    return chart(panels, Continuity([], []), 1.0)


def _logarithm(curve: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    steps = REPORT * (1.0 + np.arange(len(curve)))
    return np.stack([steps / steps[-1], np.log10(np.maximum(curve, 1e-9))], 1)


if __name__ == "__main__":
    main()
