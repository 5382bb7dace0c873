"""The GPU that a child renders on."""

from __future__ import annotations

import sys

from tasks.jobs.workers import Gpu


def gpu_in_use(device: str, ranks: int = 1) -> Gpu | None:
    """The GPU of this process, None unless it has started to use one. device: LONGTAKE_DEVICE.

    ranks: how many processes render together; the others have the next GPUs.

    It looks only where torch is loaded: the main process of a worker must not load it.
    """
    torch = sys.modules.get("torch")
    if torch is None or device == "cpu" or not torch.cuda.is_initialized():
        return None
    first = int(device.partition(":")[2] or torch.cuda.current_device())
    found, *others = (torch.cuda.get_device_properties(first + rank) for rank in range(ranks))
    uuids = tuple(str(getattr(other, "uuid", "")) for other in others)
    return Gpu(str(found.name), int(found.total_memory), str(getattr(found, "uuid", "")), uuids)
