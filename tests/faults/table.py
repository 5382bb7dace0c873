"""The table that `make faults` prints: tries, survivals and costs of each fault."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.harness import Outcome

Rows = dict[str, list[tuple[bool, list[Outcome]]]]


def table(rows: Rows) -> Iterator[str]:
    """One line per fault. Denoised again: the maximum of all tries. Recovery: median and maximum, in seconds."""
    width = max(map(len, rows))
    yield f"{'fault':{width}}  tries  survived  denoised again  recovery s (median, max)"
    for fault, tries in rows.items():
        costs = [outcome for _, outcomes in tries for outcome in outcomes]
        again = str(max((outcome.denoised_again for outcome in costs), default=0)) if costs else "-"
        times = sorted(outcome.recovery_s for outcome in costs if outcome.recovery_s is not None)
        took = f"{times[len(times) // 2]:.1f}, {times[-1]:.1f}" if times else "-"
        survived = sum(passed for passed, _ in tries)
        yield f"{fault:{width}}  {len(tries):5}  {survived:8}  {again:>14}  {took}"
