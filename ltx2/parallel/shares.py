"""Which calls of a step this rank computes, and with whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from ltx2.parallel.collectives import gathered
from ltx2.parallel.exchange import Alone, Exchange, Shared
from ltx2.parallel.mesh import Mesh, mesh_of
from ltx2.parallel.ranks import Ranks

Predictions: TypeAlias = tuple[Tensor, Tensor]
"""Of picture `[B, T, C]` and sound `[B, A, C]`."""


class Shares:
    """The part of this rank in each call of the transformer that a pipeline makes.

    A step of diffusers' LTX-2 pipelines makes up to three calls: one for the prompt, in a batch with the negative one
    if there is classifier-free guidance, one with perturbed blocks, and one with picture and sound isolated. None needs
    the result of another. So what all of them need is derived from the first, ranks compute some each, and the later
    calls get what the first has brought. ranks: four and more must be all processes of torch's default group, because
    they make groups. pipeline: says which guidance is on. stg_blocks: those that it perturbs.
    """

    def __init__(self, ranks: Ranks, pipeline: Any, stg_blocks: Sequence[int]) -> None:
        self._ranks = ranks
        self._pipeline = pipeline
        self._stg_blocks = list(stg_blocks)
        self._groups: dict[range, dist.ProcessGroup] = {}
        self._mesh = Mesh(1, ranks.count)
        self._later: list[Predictions] = []

    def call(self, transformer: Callable[..., Predictions], arguments: dict[str, Any]) -> Predictions:
        """The result of `transformer(**arguments)`, which is the call of a step."""
        if arguments.get("isolate_modalities") or arguments.get("spatio_temporal_guidance_blocks"):
            return self._later.pop(0) if self._later else transformer(**arguments)
        self._later = []  # of a step that failed
        calls = self._calls(arguments)
        self._mesh = mesh_of(self._ranks.count, len(calls))
        if self._mesh.guidance == 1:
            return transformer(**arguments)
        each = len(calls) // self._mesh.guidance
        begin = self._ranks.rank // self._mesh.sequence * each
        found = self._gathered([transformer(**one) for one in calls[begin : begin + each]])
        first = len(calls) - len(self._guidance())
        self._later = found[first:]
        video, audio = (torch.cat(parts) for parts in zip(*found[:first], strict=True))
        return video, audio

    def exchange(self, tokens: int) -> Exchange:
        """The exchanges of the present call, whose picture has so many tokens."""
        if self._mesh.sequence == 1:
            return Alone()
        rank = self._ranks.rank % self._mesh.sequence
        return Shared(self._callers(), rank, self._mesh.sequence, tokens)

    def _calls(self, first: dict[str, Any]) -> list[dict[str, Any]]:
        """The arguments of all calls of a step, one item each; the order is that of diffusers."""
        items = [{name: _item(value, number) for name, value in first.items()} for number in range(_batch(first))]
        return items + [items[-1] | change for change in self._guidance()]

    def _guidance(self) -> list[dict[str, Any]]:
        """What is different in the calls after the first."""
        changes: list[dict[str, Any]] = []
        if self._pipeline.do_spatio_temporal_guidance:
            changes.append({"spatio_temporal_guidance_blocks": self._stg_blocks})
        if self._pipeline.do_modality_isolation_guidance:
            changes.append({"isolate_modalities": True})
        return changes

    def _gathered(self, own: list[Predictions]) -> list[Predictions]:
        """The predictions of all calls, in order, from those of this rank."""
        streams = [
            gathered(torch.cat(parts), self._mesh.guidance, self._same_tokens()) for parts in zip(*own, strict=True)
        ]
        video, audio = (torch.split(whole.flatten(0, 1), 1) for whole in streams)
        return list(zip(video, audio, strict=True))

    def _callers(self) -> str:
        """The name of the group of the ranks that share this rank's calls."""
        step = self._mesh.sequence
        return self._own_group([range(begin, begin + step) for begin in range(0, self._ranks.count, step)])

    def _same_tokens(self) -> str:
        """The name of the group of the ranks that have this rank's tokens in other calls."""
        count, step = self._ranks.count, self._mesh.sequence
        return self._own_group([range(begin, count, step) for begin in range(step)])

    def _own_group(self, partition: list[range]) -> str:
        """The name of this rank's group in a partition of all ranks, made on first use."""
        own = next(members for members in partition if self._ranks.rank in members)
        if len(partition) == 1:
            return str(self._ranks.group.group_name)
        if own not in self._groups:
            everyone = dist.get_process_group_ranks(self._ranks.group)
            for members in partition:  # every rank has to make those of the others, too
                self._groups[members] = dist.new_group([everyone[member] for member in members])
        return str(self._groups[own].group_name)


def _batch(arguments: dict[str, Any]) -> int:
    tokens: Tensor = arguments["hidden_states"]
    return tokens.shape[0]


def _item(value: Any, number: int) -> Any:
    """One item of an argument, which is a tensor with one entry per item, or the same for all."""
    return value[number : number + 1] if isinstance(value, Tensor) else value
