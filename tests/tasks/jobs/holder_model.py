"""Changes by the holder of a claim, in the model of the job protocol; see `job_model`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.jobs.units import START_INDEX
from tests.tasks.jobs import take_model
from tests.tasks.jobs.take_model import ALONE, FILM_UNIT, SEGMENT_UNIT
from tests.tasks.jobs.unit_model import Ending, Lost, Queue, Unit, clip_unit, repair_unit

if TYPE_CHECKING:
    from tests.tasks.jobs.job_model import Job


FRAMES = 121
"""Of a segment that does not say how long it is."""


class HolderChanges:
    """The part of `Job` that the holder of a claim changes: it renews, fails, gives back and commits."""

    def renew(self: Job, name: str, holder: int, engine: bool | None, progress: int | None) -> bool:
        unit = self.held(name, holder)
        if unit is None:
            if name in self.units:  # its holder lives
                self._take_vanished(self.units[name], lambda lost: lost.holder == holder)
            return False
        unit.expired = False
        unit.engine = unit.engine if engine is None else engine
        if progress is not None and name.startswith("take:"):
            unit.step = progress
        elif progress is not None and name.startswith((SEGMENT_UNIT, "repair:")):
            self.progress[self.key(unit.index)] = progress
        return True

    def decide(self: Job, name: str, holder: int, index: int, frames: int) -> int | None:
        """The length of the segment of a claim from now on, which has one already or gets this; None: it is lost."""
        if self.held(name, holder) is None:
            return None
        if index in self.lengths and self.lengths[index] is None:
            self.lengths[index] = frames
        return self.lengths.get(index, FRAMES)

    def release(self: Job, name: str, holder: int, reason: str, allowed: int) -> tuple[str, int]:
        unit = self.held(name, holder)
        if unit is None:
            return "refused", 0
        unit.attempts += bool(reason)
        if reason and unit.attempts >= allowed:
            self._fail(name, unit, reason)
            return "failed", 0
        self._release_claim(name, unit)
        return "retry", unit.ticket

    def report_death(
        self: Job, name: str, index: int, ticket: int, node: str, reason: str, allowed: int
    ) -> tuple[str, int]:
        """The process that had this message died; at most one attempt for one message and node."""
        names = [self.segment_unit(index), repair_unit(index)] if name == SEGMENT_UNIT else [name]
        for candidate in names if self.unfinished else []:
            unit = self.units.get(candidate)
            if unit is None or unit.index != index:
                continue
            held = unit.holder != 0 and (unit.ticket, unit.node) == (ticket, node)
            lost = held or self._take_vanished(unit, lambda lost: (lost.ticket, lost.node) == (ticket, node))
            unit.attempts += unit.engine if held else bool(lost)
            if lost and (unit.engine or not held) and unit.attempts >= allowed:
                self._fail(candidate, unit, reason)
                return "failed", 0
            if held or (not unit.holder and unit.ticket == ticket):
                self._release_claim(candidate, unit)
                return "retry", unit.ticket
        return "refused", 0

    def _fails_alone(self: Job, name: str) -> bool:
        """Whether a unit is of a take that was never whole."""
        kind, *numbers = name.split(":")
        return kind == "take" and self._is_new_take(*map(int, numbers))

    def _is_new_take(self: Job, index: int, number: int) -> bool:
        return not take_model.is_whole(self, index, number)

    def _fail(self: Job, name: str, unit: Unit, reason: str) -> None:
        if not self._fails_alone(name):
            self.end("failed", Ending(reason, unit.index, unit.attempts))
            return
        take_model.fail_take(self, unit.index, int(name.split(":")[2]))
        take_model.finish_if_done(self, Ending())

    @staticmethod
    def _take_vanished(unit: Unit, matches: Callable[[Lost], bool]) -> bool:
        found = next((lost for lost in unit.vanished if matches(lost)), None)
        if found:
            unit.vanished.remove(found)
        return found is not None

    def report_lost(self: Job, name: str, holder: int, index: int, repair: str) -> bool:
        unit = self.held(name, holder)
        if unit is None:
            return False
        self._release_claim(name, unit)
        unit.after = repair
        if unit.after not in self.units:
            self.units[unit.after] = Unit(index)
            self.epoch += 1
        return True

    def reopen_clips(self: Job, holder: int, indices: list[int]) -> bool:
        if self.held(FILM_UNIT, holder) is None:
            return False
        del self.units[FILM_UNIT]
        for index in indices:
            del self.clips[index]
            self.units[clip_unit(index)] = Unit(index)
        self.epoch += 1
        return True

    def commit_segment(
        self: Job, index: int, holder: int, handoff: str, queue: Queue, *, sticky: bool, busy: bool, others: int
    ) -> tuple[int, int] | None:
        """Segment and ticket of the next message, 0 and 0 if none is due; None if the claim is lost."""
        name = self.segment_unit(index)
        is_repeated = self.winners.get(self.key(index)) == (name, holder)
        if not is_repeated:
            unit = self.held(name, holder)
            if unit is None:
                return None
            before = take_model.clip_shows(self, index - 1)
            del self.units[name]
            self._commit_handoff(name, index, holder, handoff)
            self.continues[index] = unit.from_take
            self.epoch += take_model.update_clip(self, index - 1, before)
            take_model.keep_renderings(self, index, holder, handoff, others)
            self._claim_clip(unit)
        following = self._following(index, is_repeated=is_repeated, busy=busy)
        if following is None:
            return 0, 0
        self._open_part(self.segment_unit(following), following)
        return following, self._reserve(self.segment_unit(following), following, queue, sticky=sticky and not busy)

    def _following(self: Job, index: int, *, is_repeated: bool, busy: bool) -> int | None:
        """The segment whose message follows a commit. busy: one other message waits in the queue of segments."""
        if not self.published:
            return None
        known = self.units.get(self.segment_unit(index + 1)) if is_repeated and self.segment_due else None
        if known and not known.holder:
            return known.index
        free = self.startable()
        own = [u for n, u in self.units.items() if n.startswith((SEGMENT_UNIT, "repair:", "take:"))]
        waiting = sum(unit.sent and not unit.holder and not unit.sticky for unit in own)
        if self.parallel and self.has_segment_unit and busy > waiting:
            return None
        return index + 1 if index + 1 in free else next(iter(free), None)

    def commit_repair(self: Job, index: int, holder: int, changed: str | None, clip_lost: bool) -> tuple[bool, bool]:
        """Whether the commit is accepted, and whether its holder must encode the clip."""
        name, clip = repair_unit(index), self.units.get(clip_unit(index))
        if self.winners.get(self.key(index)) == (name, holder):
            return True, clip is not None and clip.holder == holder
        unit = self.held(name, holder)
        if unit is None:
            return False, False
        del self.units[name]
        if changed is not None:
            take_model.discard_after(self, index)
        elif clip_lost:
            self.clips.pop(index, None)
        self._commit_handoff(name, index, holder, changed or self.handoffs[index])
        clip = self.units.get(clip_unit(index))
        if index in self.clips or (clip and clip.holder and not clip.expired):
            return True, False
        if take_model.clip_shows(self, index)[:2] != (0, -1):
            self.units.setdefault(clip_unit(index), Unit(index))
            return True, False
        self._claim_clip(unit)
        return True, True

    def _commit_handoff(self: Job, name: str, index: int, holder: int, handoff: str) -> None:
        self.handoffs[index] = handoff
        self.winners[self.key(index)] = (name, holder)
        self.progress.pop(self.key(index), None)
        self.commits[f"handoff:{index}"] += 1

    def _claim_clip(self: Job, unit: Unit) -> None:
        unit.expired, unit.engine, unit.attempts, unit.vanished = False, False, 0, []
        self.units[clip_unit(unit.index)] = unit

    def commit_clip(
        self, index: int, holder: int, clip: str, queue: Queue, shows: take_model.Shows
    ) -> tuple[bool, int]:
        """Whether the commit is accepted, and the film message's ticket, 0 for none."""
        name = clip_unit(index)
        accepted = self.held(name, holder) is not None
        if accepted and shows != take_model.clip_shows(self, index):
            self.units[name] = Unit(index)
            return False, 0
        if accepted:
            del self.units[name]
            self.clips[index] = clip
            self.commits[name] += 1
            if self.parallel:
                self.winners.pop(index, None)
        is_stored = name not in self.units and self.clips.get(index) == clip
        if not is_stored or not self.film_due or not self.published or FILM_UNIT in self.units:
            return accepted, 0
        return accepted, self._reserve(FILM_UNIT, START_INDEX, queue)

    def commit_film(self: Job, holder: int) -> bool:
        if self.winners.get(ALONE) == (FILM_UNIT, holder):
            return True
        if self.held(FILM_UNIT, holder) is None:
            return False
        self.film, self.outdated, self.winners[ALONE] = True, False, (FILM_UNIT, holder)
        del self.units[FILM_UNIT]
        take_model.finish_if_done(self, Ending())
        return True

    def commit_take(self: Job, index: int, number: int, holder: int, made: str, pinned_to: int, changed: bool) -> bool:
        accepted = take_model.commit_take(self, index, number, holder, made, pinned_to, changed)
        if accepted:
            take_model.finish_if_done(self, Ending())
        return accepted
