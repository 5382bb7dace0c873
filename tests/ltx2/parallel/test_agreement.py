"""What ranks decide together: settings that are the same on all of them, and whether their copies work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ltx2.errors import DeviceError
from ltx2.parallel import collectives
from ltx2.parallel.agreement import check_alike
from ltx2.parallel.copies import can_copy
from ltx2.parallel.ranks import Ranks
from tests.ltx2.parallel.processes import RankProcesses

CPU = torch.device("cpu")


def check(ranks: Ranks, attentions: list[str]) -> str:
    try:
        check_alike(ranks, {"precision": "bf16", "attention": attentions[ranks.rank]}, CPU)
    except DeviceError as error:
        return str(error)
    return ""


def test_ranks_refuse_settings_that_are_not_the_same_on_all(ranks: RankProcesses) -> None:
    assert ranks.run(3, check, ["fp8"] * 3) == [""] * 3
    [problem] = set(ranks.run(3, check, ["fp8", "fp8", "bf16"]))
    assert problem == (
        "gpus is 3, but attention is fp8 on the first of them and bf16 on number 2, which is another kind of GPU: set "
        "LONGTAKE_ATTENTION, or use GPUs of one kind"
    )


class Done:
    def synchronize(self) -> None:
        pass


class CopiesOnCpu:
    """Exchanges as those of `Copies`, of which those of one rank do not work. broken: that rank, and how."""

    broken: tuple[int, str] | None = None

    def __init__(self, group: dist.ProcessGroup, _: torch.device) -> None:
        self._group = group

    def start(self, parts: Tensor, _: str) -> tuple[Tensor, Done]:
        result = torch.empty_like(parts)
        dist.all_to_all_single(result, parts, group=self._group)
        rank, how = self.broken or (-1, "")
        if rank == dist.get_rank(self._group):
            if how == "refused":
                raise RuntimeError("CUDA's cuStreamWriteValue32_v2 failed with error 801")
            result.zero_()
        return result, Done()


def try_copies(ranks: Ranks, broken: tuple[int, str] | None) -> bool:
    """Whether this rank uses copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CopiesOnCpu, "broken", broken)
        patch.setattr(collectives, "Copies", CopiesOnCpu)
        patch.setattr(collectives, "can_copy", lambda _: True)
        found: Any = collectives._copies.__wrapped__(str(ranks.group.group_name), torch.device("cpu", ranks.rank))
        return found is not None


@pytest.mark.parametrize("how", ["refused", "lost"])
def test_all_ranks_exchange_otherwise_if_copies_do_not_work_on_one(ranks: RankProcesses, how: str) -> None:
    assert ranks.run(3, try_copies, None) == [True] * 3
    assert ranks.run(3, try_copies, (1, how)) == [False] * 3


def test_copies_are_not_used_where_nccl_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given GPUs that say that they reach each other
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda *_: True)
    assert can_copy([0, 1])
    # When / Then
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert not can_copy([0, 1])
