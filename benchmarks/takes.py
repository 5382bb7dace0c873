"""Retakes, choices, given sound and images in time by the trained small model, each with a control that must fail.

python benchmarks/takes.py                  a few of each, some minutes on a CPU
python benchmarks/takes.py --retakes 40     all
python benchmarks/takes.py --jobs 40        retakes of jobs in a deployment instead: `retake`, `choose`, and back again

Retakes are of the second or third of four segments, in worlds with one shape and a tone: another seed, the other tone
(one and a half octaves away), the opposite direction. The last latent of the picture and the last ten of the sound are
pinned, and the end is crossfaded with the next segment. Choices are of `best_of` renderings of a continuation, judged
by the film that each of them makes, not by the figures that they were chosen by.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `training`

from benchmarks import job_takes, report
from ltx2.engine import Engine
from ltx2.quality.joins import Join, join_in
from ltx2.request import PlacedImage
from ltx2.timeline import next_timing
from tasks.spec.head import JobHead
from tasks.worker.segments.renderings import SEED_STEP, Rendering, best
from training import takes
from training.takes import Judgement, Rendered
from training.world import FPS, FRAMES

SEGMENTS = 4


def main() -> None:
    options = arguments()
    if options.jobs:
        report.write("takes", list(through_jobs(options.model, options.jobs)), options.json, jobs=options.jobs)
        return
    engine = Engine.load(options.model, device="cpu")
    rows = [
        *retakes(engine, options.retakes),
        *choices(engine, options.joins, options.best_of),
        *given_sound(engine, options.tracks),
        *images(engine, options.images),
    ]
    counts = {name: getattr(options, name) for name in ("retakes", "joins", "best_of", "tracks", "images")}
    report.write("takes", rows, options.json, **counts)


def arguments() -> Any:
    parser = report.parser(str(__doc__), "takes")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--retakes", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=0, help="retakes of jobs in a deployment, instead of all else")
    parser.add_argument("--joins", type=int, default=6, help="continuations that are rendered several times")
    parser.add_argument("--best-of", type=int, default=3, help="how often each of them is rendered")
    parser.add_argument("--tracks", type=int, default=2, help="films with given sound")
    parser.add_argument("--images", type=int, default=4, help="first segments, and continuations, with an image")
    return parser.parse_args()


def row(what: str, count: int, measured: str, value: str, control: str) -> dict[str, Any]:
    return {"what": what, "n": count, "measured": measured, "value": value, "control": control}


def retakes(engine: Engine, count: int) -> Iterator[dict[str, Any]]:
    """Rows about `count` retakes, three of each world, with the controls that CONTROLS names."""
    found: dict[str, list[Judgement]] = defaultdict(list)
    for number in range(count):
        world, kind = divmod(number, len(KINDS))
        scene, index = takes.tonal_world(world), 1 + world % 2
        if kind == 0:
            film = takes.rendered(engine, takes.requests_of(scene.prompt, SEGMENTS, 1000 * world))
            found["as rendered"].append(takes.judged(film.film.continuity(), index))
            found["the sound negated"].append(takes.judged(takes.with_click(film.film, index).continuity(), index))
        prompt = (scene, takes.with_other_tone(scene), takes.other_way(scene))[kind].prompt
        found[KINDS[kind]].append(judged_retake(engine, film, index, prompt, number))
        if kind == 1:
            found["nothing pinned"].append(judged_retake(engine, film, index, prompt, number, pinned=False))
            other = takes.tonal_world(1000 + world).prompt
            found["another world"].append(judged_retake(engine, film, index, other, number))
    for name in ("as rendered", *KINDS) if count else ():
        yield row(f"retake: {name}", len(found[name]), "both joins within bounds", joins(found[name]), "")
    all_retakes = [one for name in KINDS for one in found[name]]
    for measured, (control, counted) in CONTROLS.items() if count else ():
        yield row(
            "all retakes", len(all_retakes), measured, counted(all_retakes), f"{counted(found[control])}: {control}"
        )


def through_jobs(model: str, count: int) -> Iterator[dict[str, Any]]:
    """Rows about `count` retakes of jobs, each chosen and undone."""
    found = list(job_takes.retakes(model, count))
    rows = (
        ("every other clip has its bytes", "others_kept", "own_kept", "the clip of the segment itself"),
        ("the first take chosen again gives the first film", "restored", "own_kept", "while the take was shown"),
    )
    for measured, name, control, which in rows:
        value, other = (part([getattr(one, field) for one in found]) for field in (name, control))
        yield row("retake of a job", count, measured, value, f"{other}: {which}")
    spoilt = ("spoilt", "the halves of its picture exchanged, its sound an octave higher")
    controls = {"no click": ("clicking", "the sound negated"), LARGEST_STEP: ("before", "as rendered")}
    for measured, (_, counted) in CONTROLS.items():
        control, which = controls.get(measured, spoilt)
        value, other = (counted([getattr(one, field) for one in found]) for field in ("after", control))
        yield row("retake of a job", count, measured, value, f"{other}: {which}")


def judged_retake(
    engine: Engine, film: Rendered, index: int, prompt: str, seed: int, *, pinned: bool = True
) -> Judgement:
    new = takes.retaken(engine, film, index, prompt=prompt, seed=777 + seed, pinned=pinned, crossfade=pinned)
    return takes.judged(new.film.continuity(), index)


def choices(engine: Engine, count: int, best_of: int) -> Iterator[dict[str, Any]]:
    """Rows about `count` continuations, each the best of some; the controls choose without looking.

    Every other one has the prompt of another world, so that its renderings join unequally well.
    """
    chosen: list[Join] = []
    first: list[Join] = []
    last: list[Join] = []
    for number in range(count):
        scene = takes.tonal_world(300 + number)
        begin, request = takes.requests_of(scene.prompt, 2, 1000 * number)
        before = engine.run(begin)
        if number % 2:
            request = replace(request, prompt=takes.tonal_world(1300 + number).prompt)
        made: list[Rendering] = []
        others: list[Rendering] = []
        run = partial(engine.run, state=before.state)
        made.append(best(JobHead(best_of=best_of), request, before.state, run, others.append))
        in_order = sorted([*made, *others], key=lambda one: (one.request.seed - request.seed) // SEED_STEP)
        for joins_in_film, one in ((chosen, made[0]), (first, in_order[0]), (last, in_order[-1])):
            joins_in_film.append(join_in(Rendered([begin, one.request], [before, one.output]).film.continuity()))
    if not count:
        return
    what = f"best of {best_of}"
    within, control = (part([not one.wrong for one in found]) for found in (chosen, first))
    yield row(what, count, "join and segment within bounds", within, f"{control}: the first rendering")
    value, control = (middle([one.excess for one in found]) for found in (chosen, first))
    yield row(what, count, "largest part of a bound", value, f"{control}: the first rendering")
    better, control = (
        part([one.rank <= other.rank for one, other in zip(picked, first, strict=True)]) for picked in (chosen, last)
    )
    yield row(what, count, "join at least as good as that of the first rendering", better, f"{control}: the last one")


def given_sound(engine: Engine, count: int) -> Iterator[dict[str, Any]]:
    """Rows about `count` films whose sound is that of a world; the control is the same films without it."""
    given: list[list[float]] = []
    without: list[list[float]] = []
    for number in range(count):
        scene = takes.tonal_world(100 + number)
        requests = takes.requests_of(scene.prompt, SEGMENTS, 1000 * number)
        sound = takes.track_latents(engine, scene, [request.timing for request in requests])
        film = takes.rendered(engine, [replace(one, sound=slice_) for one, slice_ in zip(requests, sound, strict=True)])
        given.append(takes.to_track(film.film, scene))
        without.append(takes.to_track(takes.rendered(engine, requests).film, scene))
    for index in range(SEGMENTS if count else 0):
        off, control = ([film[index] for film in films] for films in (given, without))
        yield row("given sound", count, f"semitones to the height, segment {index}", middle(off), middle(control))


def images(engine: Engine, count: int) -> Iterator[dict[str, Any]]:
    """Rows about images of a world, in first segments and in continuations; the control is without the image."""
    for name in IMAGES_IN if count else ():
        given: list[float] = []
        without: list[float] = []
        for number in range(count):
            scene = takes.tonal_world(200 + number)
            (request,) = takes.requests_of(scene.prompt, 1, 1000 * number)
            frame, begin, state = 2 + 22 * (number + 1) // count, 0, None
            if name == LAST_FRAME:
                frame = FRAMES - 1
            if name == "continuation":
                state = takes.state_in(engine, scene, engine.run(request).state)
                request = replace(request, timing=next_timing(request.timing))
                begin, frame = FRAMES - takes.SHAPE.overlap, 9 + 15 * (number + 1) // count
            image = PlacedImage(frame, scene.frames((begin + frame) / FPS, 1)[0])
            given.append(takes.off_at(engine.run(replace(request, images=(image,)), state).frames, image))
            without.append(takes.off_at(engine.run(request, state).frames, image))
        yield row(f"image in a {name}", count, "pixels from its place", middle(given), middle(without))
        near, control = (part([value <= 3 for value in values]) for values in (given, without))
        yield row(f"image in a {name}", count, "within 3 pixels", near, control)


def joins(ones: Sequence[Judgement]) -> str:
    return part([not any(one.joins) for one in ones])


def part(good: Sequence[bool]) -> str:
    return f"{sum(good)} of {len(good)}"


def middle(values: Sequence[float]) -> str:
    """Median and largest value, and how many are unknown."""
    known = [value for value in values if not math.isnan(value)]
    lost = f", {len(values) - len(known)} lost" if len(known) < len(values) else ""
    return f"{statistics.median(known):.1f} ({max(known):.1f}){lost}" if known else f"all {len(values)} lost"


LAST_FRAME = "first segment's last frame"
IMAGES_IN = ("first segment", LAST_FRAME, "continuation")
LARGEST_STEP = "largest step of the shape, pixels"
KINDS = ("another seed", "the other tone", "the opposite way")
CONTROLS: dict[str, tuple[str, Callable[[Sequence[Judgement]], str]]] = {
    "both joins within bounds": ("nothing pinned", joins),
    "pitch at both joins within a semitone": (
        "nothing pinned",
        lambda ones: part([not one.semitones > 1 for one in ones]),
    ),
    "no click": ("the sound negated", lambda ones: part([not one.clicks for one in ones])),
    "no leap inside": ("another world", lambda ones: part([not one.leaps for one in ones])),
    LARGEST_STEP: ("as rendered", lambda ones: middle([one.largest_step for one in ones])),
}
"""What is measured, with the retakes that must fail it: the other tone with nothing pinned; the film as it is with its
sound negated at the change-over; the pinned end of another world. The last is a comparison: the film as it is."""


if __name__ == "__main__":
    main()
