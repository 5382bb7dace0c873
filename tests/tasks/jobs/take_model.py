"""The part of the model of job records that is about takes; see `job_model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.jobs.units import ALL_APPROVED

if TYPE_CHECKING:
    from tests.tasks.jobs.job_model import Job

Shows = tuple[int, int, int]
"""The takes that a clip shows: its own, the next one's that it is crossfaded with, and the one it dissolves from."""
SEGMENT_UNIT, FILM_UNIT = "segment", "film"
ALONE = -1
"""The key of what a job has one of, and a parallel job one per segment."""


def take_unit(index: int, number: int) -> str:
    return f"take:{index}:{number}"


@dataclass
class TakeOfModel:
    """A take in one of its segments, `first` to `last`.

    made: by whom; "" before it is rendered. pinned_to: see `Handoff`.
    """

    first: int
    last: int
    made: str = ""
    pinned_to: int = -1
    failed: bool = False
    winner: int = -1


class OwnClip(NamedTuple):
    """The clip of a take by itself."""

    clip: str
    dissolves_from: int = -1


def shown(job: Job, index: int) -> int:
    return job.shows.get(index, 0)


def made_by(job: Job, index: int, number: int) -> str | None:
    """Who rendered a take; None if nobody did."""
    return job.handoffs.get(index) if number == 0 else job.takes[index, number].made or None


def segments(job: Job, index: int, number: int) -> range:
    """The segments of a take."""
    take = job.takes.get((index, number))
    return range(take.first, take.last + 1) if take else range(index, index + 1)


def is_whole(job: Job, index: int, number: int) -> bool:
    """Whether a take other than 0 is rendered in all of its segments."""
    return all(job.takes[segment, number].made for segment in segments(job, index, number))


def from_take(job: Job, index: int, number: int = 0) -> int:
    """The take that a segment continues, or would continue, as part of a take."""
    if index > segments(job, index, number)[0]:
        return number
    if index in job.fades | job.cuts:
        return shown(job, index - 1)
    return job.continues[index] if index in job.handoffs else shown(job, index - 1)


def continued(job: Job, index: int) -> int | None:
    """The take of a segment that the next one continues."""
    if index + 1 in job.fades | job.cuts:
        return None
    if index + 1 in job.handoffs:
        return int(job.continues[index + 1])
    unit = job.units.get(job.segment_unit(index + 1))
    return unit.from_take if unit and unit.holder and unit.index == index + 1 else None


def clip_shows(job: Job, index: int) -> Shows:
    own = shown(job, index)
    is_within = segments(job, index + 1, shown(job, index + 1))[0] <= index
    is_apart = continued(job, index) not in (None, own) and not is_within
    following = shown(job, index + 1) if is_apart and index + 1 in job.handoffs else -1
    return own, following, shown(job, index - 1) if index in job.fades and index in job.handoffs else -1


def update_clip(job: Job, index: int, before: Shows) -> bool:
    """Whether a committed clip was replaced."""
    wanted = clip_shows(job, index)
    if wanted == before or index not in job.handoffs:
        return False
    former = job.clips.pop(index, None)
    if former is not None and before[1] == -1:
        job.own_clips.setdefault((index, before[0]), OwnClip(former, before[2]))
    ready = job.own_clips.get((index, wanted[0])) if wanted[1] == -1 else None
    job.units.pop(f"clip:{index}", None)
    if ready is not None and ready.dissolves_from == wanted[2]:
        job.clips[index] = ready.clip
    else:
        job.add_unit(f"clip:{index}", index)
    return former is not None


def clips_show(job: Job, first: int, last: int) -> dict[int, Shows]:
    return {index: clip_shows(job, index) for index in range(max(0, first), last + 1)}


def update_clips(job: Job, before: dict[int, Shows]) -> bool:
    """Whether a committed clip was replaced."""
    replaced = [update_clip(job, index, shows) for index, shows in before.items()]
    return any(replaced)


def is_next_of_take(job: Job, name: str) -> bool:
    """Whether a unit is the next segment of a take that is to be rendered."""
    kind, *numbers = name.split(":")
    return kind == "take" and job.units[name].after != take_unit(int(numbers[0]) - 1, int(numbers[1]))


def progress_of(job: Job) -> dict[tuple[int, int], int]:
    """The steps of the takes that are being rendered, by segment and number."""
    units = {key: job.units.get(take_unit(*key)) for key in job.takes}
    return {key: unit.step for key, unit in units.items() if unit and unit.step is not None}


def outdate_film(job: Job) -> None:
    job.units.pop(FILM_UNIT, None)
    job.outdated = job.film


def finish_if_done(job: Job, ending: Any) -> None:
    if job.unfinished and job.film and not job.outdated and not any(name.startswith("take:") for name in job.units):
        job.end("done", ending)


def fail_take(job: Job, index: int, number: int) -> None:
    """Nothing of a take is there, or will be."""
    for segment in segments(job, index, number):
        take = job.takes[segment, number]
        take.made, take.pinned_to, take.failed = "", -1, True
        job.own_clips.pop((segment, number), None)
        job.units.pop(take_unit(segment, number), None)


def continued_takes(
    job: Job, first: int, last: int, lowest: int = 0, without: int | None = None
) -> tuple[dict[int, int], int]:
    """What segments show where nobody has chosen, and the first of them."""
    found: dict[int, int] = {}
    while last >= first:
        number = continued(job, last) or 0
        number = number if number != without else 0
        for segment in range(segments(job, last, number)[0], last + 1):
            found[segment] = number
            first = max(lowest, min(first, segments(job, segment, shown(job, segment))[0]))
        last = segments(job, last, number)[0] - 1
    return found, last + 1


def show_takes(job: Job, wanted: dict[int, int]) -> None:
    job.shows = {segment: take for segment, take in (job.shows | wanted).items() if take}


def discard_take(job: Job, index: int, number: int) -> None:
    """Have what is continued shown in place of a take, which falls."""
    whole = segments(job, index, number)
    is_shown = shown(job, index) == number
    wanted, lowest = continued_takes(job, whole[0], whole[-1], without=number) if is_shown else ({}, whole[0])
    before = clips_show(job, lowest - 1, whole[-1] + 1)
    show_takes(job, wanted)
    update_clips(job, before)
    fail_take(job, index, number)


def discard_takes(job: Job, index: int, *, only_pinned: bool) -> None:
    job.own_clips.pop((index, 0), None)
    for (segment, number), take in job.takes.items():
        name = take_unit(segment, number)
        if segment != index:
            continue
        falls = not only_pinned or take.pinned_to != -1
        if falls and (take.made or name in job.units):
            discard_take(job, index, number)
        elif only_pinned and name in job.units and job.units[name].holder:
            job.add_unit(name, index)


def discard_clip(job: Job, index: int) -> None:
    job.clips.pop(index, None)
    job.add_unit(f"clip:{index}", index)


def discard_after(job: Job, index: int) -> None:
    """Discard what was made from a segment, and its clip."""
    end = min([cut for cut in job.cuts if cut > index], default=job.segments) if job.parallel else job.segments
    outdate_film(job)
    if clip_shows(job, index - 1)[1] != -1:
        discard_clip(job, index - 1)
    job.clips.pop(index, None)
    later_ones = [later for later in sorted(job.handoffs) if index < later < end]
    if job.parallel and end - 1 in job.handoffs and index < end - 1 and end < job.segments:
        job.opened.add(end)
    for later in later_ones:
        del job.handoffs[later]
        job.clips.pop(later, None)
    discard_takes(job, index, only_pinned=True)
    for later in later_ones:
        discard_takes(job, later, only_pinned=False)
    job.chained = min(index, job.chained)
    if job.approved not in (None, ALL_APPROVED):
        job.approved = min(int(job.approved or 0), index)
    job.epoch += 1
    own_takes = f"take:{index}:"
    kept = {n: u for n, u in job.units.items() if not index <= u.index < end or n.startswith(own_takes)}
    for name in job.units.keys() - kept.keys():
        job.progress.pop(job.units[name].index, None)
    job.units = {name: unit for name, unit in kept.items() if name not in (SEGMENT_UNIT, FILM_UNIT)}


def make_clips_due(job: Job) -> None:
    for index in job.handoffs:
        if index not in job.clips and f"clip:{index}" not in job.units:
            job.add_unit(f"clip:{index}", index)


def can_have_takes(job: Job) -> bool:
    return job.unfinished or (job.cursor == job.segments and job.admitted)


def wake(job: Job, no_ending: Any) -> None:
    if not job.unfinished:
        job.state, job.ending = "running" if job.started else "queued", no_ending
        job.winners.pop(ALONE, None)
        make_clips_due(job)


def ask(job: Job, whole: range, count: int) -> int:
    """Add takes of segments; returns the number of the first."""
    first = 1 + max((number for segment, number in job.takes if segment in whole), default=0)
    for number in range(first, first + count):
        for segment in whole:
            job.takes[segment, number] = TakeOfModel(whole[0], whole[-1])
            job.add_unit(take_unit(segment, number), segment)
            job.units[take_unit(segment, number)].after = take_unit(segment - 1, number) if segment > whole[0] else ""
    need_version(job)
    return first


def keep_renderings(job: Job, index: int, holder: int, made: str, count: int) -> None:
    """Keep renderings that were not chosen as takes of a segment that is being committed."""
    first = ask(job, range(index, index + 1), count) if count else 0
    for number in range(first, first + count):
        del job.units[take_unit(index, number)]
        job.takes[index, number].made = made
        job.own_clips[index, number] = OwnClip(f"another by {holder}")


def need_version(job: Job) -> None:
    """The first time, the film is taken from who has it."""
    if not job.has_takes:
        job.has_takes = True
        job.units.pop(FILM_UNIT, None)


def choice(job: Job, index: int, number: int) -> str:
    """What a choice comes to: "" if the take may be shown."""
    if index not in job.handoffs:
        return "not rendered"
    if not can_have_takes(job):
        return "ended"
    if number and (index, number) not in job.takes:
        return "no take"
    if number and not is_whole(job, index, number):
        return "not made"
    whole = segments(job, index, number)
    wanted = continued(job, whole[-1])
    pinned_to = job.takes[whole[-1], number].pinned_to if number else -1
    if wanted not in (None, number, pinned_to):
        return "apart"
    begin = whole[-1] + 1
    after, _ = continued_takes(job, begin, segments(job, whole[-1], shown(job, whole[-1]))[-1], begin)
    return "apart" if whole[-1] in after and shown(job, index) != number else ""


def choose(job: Job, index: int, number: int) -> None:
    whole = segments(job, index, number)
    lowest, highest = (segments(job, whole[end], shown(job, whole[end]))[end] for end in (0, -1))
    after, _ = continued_takes(job, whole[-1] + 1, highest, whole[-1] + 1)
    wanted, lowest = continued_takes(job, lowest, whole[0] - 1)
    before = clips_show(job, lowest - 1, max(highest, whole[-1]) + 1)
    show_takes(job, wanted | after | dict.fromkeys(whole, number))
    job.epoch += update_clips(job, before)
    need_version(job)
    outdate_film(job)


def commit_take(job: Job, index: int, number: int, holder: int, made: str, pinned_to: int, changed: bool) -> bool:
    name, take = take_unit(index, number), job.takes.get((index, number))
    if take is None or job.held(name, holder) is None:
        return take is not None and take.winner == holder
    take.winner = holder
    is_other = bool(take.made) and changed
    dissolves_from = job.units[name].from_take if index in job.fades else -1
    job.units.pop(name, None)
    if is_other and index < take.last and job.takes[index + 1, number].made:
        was_shown = shown(job, index) == number
        if continued(job, take.last) == number:
            discard_after(job, take.last)
        discard_take(job, index, number)
        if was_shown:
            outdate_film(job)
            job.epoch += 1
        make_clips_due(job)
        return True
    if is_other and continued(job, index) == number:
        discard_after(job, index)
    elif is_other and shown(job, index) == number:
        outdate_film(job)
        discard_clip(job, index)
        if clip_shows(job, index - 1)[1] == number:
            discard_clip(job, index - 1)
        if clip_shows(job, index + 1)[2] == number:
            discard_clip(job, index + 1)
        job.epoch += 1
    take.made, take.pinned_to, take.failed = made, pinned_to, False
    job.own_clips[index, number] = OwnClip(f"take {number} by {holder}", dissolves_from)
    job.commits[name] += 1
    if is_other:
        make_clips_due(job)
    return True
