from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from torch.distributed import ProcessGroup

from ltx2.engine import Engine
from ltx2.errors import DeviceError
from ltx2.parallel.mesh import Mesh, check_ranks, mesh_of
from ltx2.parallel.ranks import Ranks

HEADS = 32


@pytest.mark.parametrize(
    ("count", "calls", "mesh"),
    [
        (1, 1, Mesh(1, 1)),
        (1, 4, Mesh(1, 1)),
        (2, 1, Mesh(1, 2)),
        (2, 2, Mesh(2, 1)),
        (2, 3, Mesh(1, 2)),
        (2, 4, Mesh(2, 1)),
        (4, 2, Mesh(2, 2)),
        (4, 4, Mesh(4, 1)),
        (8, 4, Mesh(4, 2)),
        (32, 3, Mesh(1, 32)),
    ],
)
def test_as_many_ranks_as_can_take_equally_many_calls_of_their_own(count: int, calls: int, mesh: Mesh) -> None:
    assert mesh_of(count, calls) == mesh
    # no rank is idle while another computes
    assert mesh.guidance * mesh.sequence == count
    assert calls % mesh.guidance == 0


@pytest.mark.parametrize("count", [-1, 0, 3, 5, 6, 7, 64])
def test_a_count_by_which_the_heads_do_not_divide_is_refused_with_the_counts_that_can_be(count: int) -> None:
    with pytest.raises(DeviceError, match=f"^gpus is {count}, but the 32 .* use one of 1, 2, 4, 8, 16, 32$"):
        check_ranks(count, HEADS)


def test_an_engine_refuses_more_ranks_than_its_model_has_heads(models: dict[str, Path]) -> None:
    with pytest.raises(DeviceError, match=r"^gpus is 4, but the 2 .* use one of 1, 2$"):
        Engine.load(str(models["tiny"]), device="cpu", ranks=Ranks(0, 4, cast("ProcessGroup", None)))
