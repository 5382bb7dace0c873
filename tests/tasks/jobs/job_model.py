"""A model of the job protocol in plain dictionaries.

The records in Redis are compared with it. The model has no clock: a lease expires when `expired` is set, a sticky
message when `expire_sticky` is called. A claim is identified by its holder, a number from 1; 0 means no holder.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tasks.jobs.queues import Priority
from tasks.jobs.units import ALL_APPROVED, START_INDEX, JobState
from tests.tasks.jobs import take_model
from tests.tasks.jobs.holder_model import HolderChanges
from tests.tasks.jobs.take_model import ALONE, FILM_UNIT, SEGMENT_UNIT, TakeOfModel
from tests.tasks.jobs.unit_model import Due, Ending, Lost, Message, Queue, Unit, clip_unit, repair_unit

LEFT_OPEN = "it was open for too long, and no segment was appended"


@dataclass
class Job(HolderChanges):
    """One job; an empty state means an unknown job.

    cuts: the segments that begin a part. parallel: whether parts may be rendered in parallel. opened: cuts whose first
    message was announced before the segment before them was committed. lengths: of the segments with `frames: auto`,
    None before it is decided. asked: the bytes that it needed at first. room: the bytes that are reserved for pieces
    that are not stored, by name.
    """

    state: str = ""
    segments: int = 0
    needs: int = 0
    asked: int = 0
    room: dict[str, int] = field(default_factory=dict)
    pieces: set[str] = field(default_factory=set)
    created: float = 0.0
    priority: Priority = Priority.NORMAL
    cuts: set[int] = field(default_factory=set)
    parallel: bool = False
    lengths: dict[int, int | None] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)
    chained: int = -1
    tickets: int = 0
    fences: int = 0
    epoch: int = 0
    started: bool = False
    admitted: bool = False
    ending: Ending = field(default_factory=Ending)
    film: bool = False
    outdated: bool = False
    open: bool = False
    left_open: bool = False
    grown: int = 0
    approved: int | None = None
    prompts: dict[int, str] = field(default_factory=dict)
    progress: dict[int, int] = field(default_factory=dict)
    winners: dict[int, tuple[str, int]] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    handoffs: dict[int, str] = field(default_factory=dict)
    clips: dict[int, str] = field(default_factory=dict)
    takes: dict[tuple[int, int], TakeOfModel] = field(default_factory=dict)
    shows: dict[int, int] = field(default_factory=dict)
    continues: dict[int, int] = field(default_factory=dict)
    own_clips: dict[tuple[int, int], take_model.OwnClip] = field(default_factory=dict)
    fades: frozenset[int] = frozenset()
    has_takes: bool = False
    kept: bool = False
    commits: Counter[str] = field(default_factory=Counter)

    @property
    def cursor(self) -> int:
        """The first segment that is not committed."""
        return next(index for index in range(len(self.handoffs) + 1) if index not in self.handoffs)

    def segment_unit(self, index: int) -> str:
        """The unit that renders a segment for the first time."""
        return f"{SEGMENT_UNIT}:{index}" if self.parallel else SEGMENT_UNIT

    def startable(self) -> list[int]:
        """The segments that may be rendered and have no unit, in the film's order."""
        if not self.parallel:
            return [self.cursor] if self.segment_due and SEGMENT_UNIT not in self.units else []
        last = max([self.cursor, *self.opened, *(index + 1 for index in self.handoffs)])
        unopened = [cut for cut in sorted(self.cuts) if cut > last and self.has_place(cut, after=last)][:1]
        missing = [index for index in range(self.segments) if index not in self.handoffs]
        at_cursors = [i for i in missing if i == self.cursor or i - 1 in self.handoffs or i in self.opened]
        return [index for index in at_cursors if self.segment_unit(index) not in self.units] + unopened

    def has_place(self, index: int, *, after: int = 0) -> bool:
        """Whether the length of every segment before one is known, from the one at `after` on."""
        return all(self.lengths.get(before, 0) is not None for before in range(after, index))

    def key(self, index: int) -> int:
        """Where progress and winner of a segment or its repair are noted."""
        return index if self.parallel else ALONE

    @property
    def has_segment_unit(self) -> bool:
        return any(name.startswith(SEGMENT_UNIT) for name in self.units)

    @property
    def running(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def ended(self) -> bool:
        return self.state in list(JobState) and JobState(self.state).is_final

    @property
    def unfinished(self) -> bool:
        return self.running or self.state == "paused"

    @property
    def published(self) -> bool:
        """Whether messages about this job may be sent."""
        return self.running and self.admitted

    def add_unit(self, name: str, index: int) -> None:
        self.units[name] = Unit(index)

    @property
    def awaits_approval(self) -> bool:
        return self.approved is not None and self.approved < self.cursor

    @property
    def segment_due(self) -> bool:
        return self.cursor < self.segments and not self.awaits_approval

    @property
    def film_due(self) -> bool:
        is_whole = len(self.clips) == self.segments > 0 and not self.open and not self.awaits_approval
        return is_whole and (not self.film or self.outdated)

    @property
    def waits_for_segments(self) -> bool:
        return self.open and self.cursor == self.segments and not self.awaits_approval

    @property
    def shown(self) -> str:
        """The state that people see."""
        if self.running and self.awaits_approval:
            return "awaiting approval"
        return "open" if self.running and self.waits_for_segments else self.state

    def held(self, name: str, holder: int) -> Unit | None:
        """The unit, if this holder has the claim on it."""
        unit = self.units.get(name)
        return unit if unit and unit.holder == holder else None

    # Changes by a user

    def pause(self) -> str:
        previous = self.state
        self.state = "paused" if self.running else previous
        return previous

    def resume(self) -> str:
        previous = self.state
        self.state = self._started_or_queued() if previous == "paused" else previous
        return previous

    def stop(self, state: str, reason: str) -> str:
        previous = self.state
        if self.unfinished:
            is_done = state == "cancelled" and self.film and not self.outdated
            self.end("done" if is_done else state, Ending() if is_done else Ending(reason or None))
        return previous

    def end(self, state: str, ending: Ending) -> None:
        for index, number in self.takes:
            if take_model.take_unit(index, number) in self.units and self._is_new_take(index, number):
                take_model.fail_take(self, index, number)
        self.state, self.ending = state, ending
        for key in [ALONE, *(unit.index for unit in self.units.values())]:
            self.progress.pop(key, None)
        self.winners = {key: winner for key, winner in self.winners.items() if key == ALONE}
        self.units.clear()

    def revive(self, state: str) -> str:
        """Keep what is committed; all else is due again."""
        previous = self.state
        if previous == state:
            self.state, self.ending = self._started_or_queued(), Ending()
            self.admitted, self.film = False, self.film and state != "done"
            self.winners.pop(ALONE, None)
            self.outdated = self.film
            take_model.make_clips_due(self)
        return previous

    def append(self, prompts: list[str], *, is_cut: bool = False, is_auto: bool = False) -> int:
        """Returns the index of the first new segment, which may be a cut, or have no length."""
        first = self.segments
        self.cuts |= {first} if is_cut else set()
        self.lengths |= {first: None} if is_auto else {}
        self.has_takes |= is_auto
        self.grown += not self.open and self.cursor == first and first - 1 in self.clips
        if self.state == "done":
            film = self.film
            self.revive("done")
            self.film, self.admitted = film, True
        self.prompts |= dict(enumerate(prompts, first))
        self.segments += len(prompts)
        self.left_open = False
        take_model.outdate_film(self)
        return first

    def replace_prompt(self, index: int, prompt: str) -> tuple[str, int | None]:
        """The outcome, and the segment that prevents it. The length is given up with the prompt."""
        if index >= self.segments:
            return "absent", index
        if index in self.handoffs:
            return "committed", index
        unit = self.units.get(self.segment_unit(index))
        if unit and unit.holder and unit.index == index:
            return "claimed", index
        claimed = [unit.index for name, unit in self.units.items() if name.startswith(SEGMENT_UNIT) and unit.holder]
        begun = max([-1, *self.handoffs, *claimed])
        if self.lengths.get(index) is not None and index < begun:
            return "begun", begun
        self.prompts[index] = prompt
        if index in self.lengths:
            self.lengths[index] = None
            self._close_parts(index)
        return "replaced", None

    def _close_parts(self, index: int) -> None:
        """Close the parts behind a segment without a length; nobody has claimed them."""
        closed = {cut for cut in self.opened if cut > index and cut not in self.handoffs}
        self.opened -= closed
        for cut in closed:
            self.units.pop(self.segment_unit(cut), None)

    def close(self) -> bool:
        closes = self.open
        self.open = self.left_open = False
        return closes

    def approve(self, index: int | None) -> str:
        if self.approved is None:
            return "not asked"
        if index is not None and index >= self.cursor:
            return "not committed"
        self.approved = max(self.approved, ALL_APPROVED if index is None else index + 1)
        return "approved"

    def _started_or_queued(self) -> str:
        return "running" if self.started else "queued"

    # Messages

    def announce(self, name: str, index: int, seen: int, queue: Queue, *, sticky: bool) -> int:
        if not self.published:
            return 0
        name = self.segment_unit(index) if name.startswith(SEGMENT_UNIT) else name
        unit = self.units.get(name)
        if unit and (unit.ticket != seen or unit.holder or unit.after in self.units):
            return 0
        if unit is None and not self._is_due(name, index):
            return 0
        self._open_part(name, index)
        return self._reserve(name, index, queue, sticky=sticky)

    def _reserve(self, name: str, index: int, queue: Queue, *, sticky: bool = False) -> int:
        unit = self.units.setdefault(name, Unit(index))
        self.tickets += 1
        queue.stamp += not sticky
        unit.ticket, unit.stamp, unit.sent = self.tickets, 0 if sticky else queue.stamp, True
        unit.sticky, unit.sticky_expired = sticky, False
        return unit.ticket

    def _open_part(self, name: str, index: int) -> None:
        if self.parallel and name == self.segment_unit(index) and index in self.cuts:
            self.opened.add(index)

    def expire_sticky(self) -> None:
        """End the time that announced messages may wait in a sticky queue."""
        for unit in self.units.values():
            unit.sticky_expired = True

    def _is_due(self, name: str, index: int) -> bool:
        """Whether a message about a unit that does not exist may create it."""
        if name == self.segment_unit(index):
            return index in self.startable()
        return name == FILM_UNIT and self.film_due

    def mark_chained(self, index: int) -> None:
        self.chained = max(self.chained, index)

    def deliver(self, message: Message, holder: int, worker: str, node: str, queue: Queue) -> Unit | int | None:
        """Deliver a message to a worker that claims its unit.

        Returns the unit when the claim is granted, the index of a segment to chain, or None.
        """
        name = message.unit
        if name.startswith(SEGMENT_UNIT) or name == repair_unit(message.index):
            is_committed = message.index in self.handoffs
            name = repair_unit(message.index) if is_committed else self.segment_unit(message.index)
        unit = self.units.get(name)
        if unit and unit.ticket == message.ticket:
            queue.claimed = max(queue.claimed, unit.stamp)
            unit.sent &= self.state != "paused" or unit.holder != 0
        if not self.running or (name == SEGMENT_UNIT and message.index > self.cursor):
            return None
        if unit is None:
            newest = name == repair_unit(self.cursor - 1) and message.ticket == self.tickets and not self.parallel
            return self.cursor if newest and self.chained < self.cursor and self.segment_due else None
        if message.ticket < unit.ticket or unit.holder or unit.after in self.units:
            return None
        self.fences += 1
        unit.from_take = take_model.from_take(self, unit.index, int(name.split(":")[2]) if name[:5] == "take:" else 0)
        unit.holder, unit.worker, unit.node = holder, worker, node
        unit.expired, unit.engine, unit.after, unit.step = False, False, "", None
        if clip_unit(unit.index) != name and name != FILM_UNIT:
            self.started, self.state = True, "running"
        return unit

    # Recovery

    def survey(self, allowed: int) -> tuple[list[Due], list[Ending]]:
        """The due units; if the job fails here, every ending that may be recorded."""
        if not self.published:
            return [], []
        if self.left_open and self.waits_for_segments:
            self.close()
            if not self.segments:
                self.end("cancelled", Ending(LEFT_OPEN))
                return [], []
        blocked = {name for name, unit in self.units.items() if unit.after in self.units}
        expired = {name: unit for name, unit in self.units.items() if unit.holder and unit.expired}
        at_end = {n: u for n, u in expired.items() if u.engine and len(u.vanished) + 1 >= allowed}
        last = (unit for name, unit in at_end.items() if not self._fails_alone(name))
        endings = [Ending(f"its workers vanished {allowed} times, last {u.worker}", u.index, u.attempts) for u in last]
        for name in [name for name in at_end if self._fails_alone(name)]:
            self._fail(name, expired.pop(name), "")
            if not self.unfinished:
                return [], []
        if endings:
            self.end("failed", endings[0])
            return [], endings
        for name, unit in expired.items():
            unit.vanished += [Lost(unit.holder, unit.ticket, unit.node)] if unit.engine else []
            self._release_claim(name, unit)
        due = [self._due(name, unit) for name, unit in self.units.items() if not unit.holder and name not in blocked]
        why = "possible" if self.has_segment_unit else "unannounced"
        due += [Due(self.segment_unit(index), index, why, 0, 0) for index in self.startable()[:1]]
        if FILM_UNIT not in self.units and self.film_due:
            due.append(Due(FILM_UNIT, START_INDEX, "unannounced", 0, 0))
        return sorted(due), []

    def _release_claim(self, name: str, unit: Unit) -> None:
        unit.holder, unit.engine, unit.sent, unit.step = 0, False, False, None
        if name.startswith(SEGMENT_UNIT):
            self.progress.pop(self.key(unit.index), None)

    def _due(self, name: str, unit: Unit) -> Due:
        is_waiting = unit.sent and not (unit.sticky and unit.sticky_expired)
        why = "waiting" if is_waiting else "expired"
        if is_waiting and name == SEGMENT_UNIT and self.chained < unit.index:
            why = "unpublished"
        return Due(name, unit.index, why, unit.stamp, unit.ticket)

    def renders_left(self) -> int:
        """The number of segments to render until the job is done, without faults."""
        return self.segments - len(self.handoffs) + sum(name.startswith(("repair:", "take:")) for name in self.units)
