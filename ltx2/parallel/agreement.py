"""What all ranks must have decided alike, because each computes a part of the same segment."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from ltx2.errors import DeviceError
from ltx2.parallel.collectives import gathered
from ltx2.parallel.ranks import Ranks

_TEXT_BYTES = 1024


def check_alike(ranks: Ranks, settings: Mapping[str, str], device: torch.device) -> None:
    """Check that all ranks have the same settings: what `auto` means depends on the device. Every rank calls it.

    Raises:
        DeviceError: they do not; on all ranks, with the same message.
    """
    if ranks.count == 1:
        return
    text = json.dumps(dict(settings)).encode()
    own = torch.frombuffer(bytearray(text.ljust(_TEXT_BYTES)), dtype=torch.uint8).to(device)
    found = gathered(own, ranks.count, ranks.group.group_name).tolist()
    first, *others = [json.loads(bytes(one)) for one in found]
    for rank, other in enumerate(others, 1):
        for name, value in first.items():
            if other[name] != value:
                raise DeviceError(
                    "gpus",
                    f"{ranks.count}, but {name} is {value} on the first of them and {other[name]} on number {rank}, "
                    f"which is another kind of GPU: set LONGTAKE_{name.upper()}, or use GPUs of one kind",
                )
