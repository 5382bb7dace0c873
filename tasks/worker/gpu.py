"""The GPU that a child renders on."""

from __future__ import annotations

import sys

from tasks.jobs.workers import Gpu


def gpu_in_use(device: str) -> Gpu | None:
    """The GPU of this process, None unless it has started to use one. device: LONGTAKE_DEVICE.

    It looks only where torch is loaded: the main process of a worker must not load it.
    """
    torch = sys.modules.get("torch")
    if torch is None or device == "cpu" or not torch.cuda.is_initialized():
        return None
    found = torch.cuda.get_device_properties(device if device.startswith("cuda") else torch.cuda.current_device())
    return Gpu(str(found.name), int(found.total_memory), str(getattr(found, "uuid", "")))
