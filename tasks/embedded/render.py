"""Renders a whole job in one process tree; resumes what an earlier render to the same film left."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from blobstore import InMemoryBlobStore
from ltx2.checkpoints.loras.lora import resolve_lora
from ltx2.checkpoints.resolve import SMALL_MODELS, resolve_model
from ltx2.checkpoints.upsampler_files import resolve_upsampler
from ltx2.errors import CheckpointError
from tasks.client.display.progress import ProgressDisplay
from tasks.client.files import make_folder, private_files
from tasks.client.films.output import FilmOutput
from tasks.client.inputs.reading import check_files
from tasks.client.job import Job, raise_unless_done
from tasks.client.submissions.prepared import check_submission
from tasks.embedded import processes, servers
from tasks.embedded.inputs import RenderInputs, inputs_of
from tasks.embedded.kept_renders import delete_renders, expired_renders
from tasks.embedded.locks import locked
from tasks.embedded.model_checks import check_device, check_sampling
from tasks.embedded.resume import finish, start_or_resume
from tasks.errors import ServerError, SpecError
from tasks.jobs.records import JobStatus
from tasks.jobs.units import JobState
from tasks.settings import Settings
from tasks.spec.images import input_paths
from tasks.spec.model_policy import check_model_folders
from tasks.spec.schema import JobSpec


def render(
    spec: JobSpec,
    output: FilmOutput,
    *,
    inputs: Iterable[Path],
    state: Mapping[str, Any] | None,
    report_folder: Path | None,
    settings: Settings,
    show: ProgressDisplay,
) -> tuple[dict[str, Any], list[str]]:
    """Render `spec` to `output`. `inputs` are the files that the spec and the state came from.

    It keeps every leading segment of an earlier render to this film whose inputs are unchanged.

    Returns the summary and, with a `report_folder` for the continuity report, the faults that it found.

    Raises:
        RequestError, ConfigError, RoomError: as `check_inputs`.
        OutputError: the output cannot be written. SpecError: the image cannot be read, or a model must not be named.
        CheckpointError: the model is missing or incomplete. JobFailedError: the job failed; says why.
        JobStateError: this film is being rendered already. ServerError: Redis or the worker failed.
    """
    spec, made_from, _ = check_inputs(
        spec, output, inputs=inputs, state=state, report_folder=report_folder, settings=settings
    )
    if report_folder:
        make_folder(report_folder)
    _handle_interruptions()
    folder, log = servers.render_folder(settings, made_from.job_id, output.film), "worker.log"
    is_new = not folder.exists()
    with (
        _film_locked(output, folder),
        ExitStack() as after,  # when the servers have ended
        servers.embedded_deployment(settings, folder) as embedded,
    ):
        job, kept = start_or_resume(spec, made_from, folder=folder, film=output.film, settings=embedded)
        if kept:
            show.say(kept)
        if job.status().state != JobState.DONE:
            with servers.worker(embedded, folder / log) as worker:
                show.follow(with_warnings(watch_with(job, worker, folder / log), job, show))
                status = job.status()
                if is_new and status.state == JobState.FAILED and not status.rendered:
                    after.callback(shutil.rmtree, folder, ignore_errors=True)  # nothing that could resume
                raise_unless_done(status)
        summary = job.write_film(output)
        faults = job.write_report(report_folder) if report_folder else []
        if output.film is not None:
            finish(job, made_from, folder=folder, film=output.film)
    if output.film is None:
        shutil.rmtree(folder)
    delete_renders(expired_renders(settings))
    return summary, faults


def check_inputs(
    spec: JobSpec,
    output: FilmOutput,
    *,
    inputs: Iterable[Path],
    state: Mapping[str, Any] | None,
    report_folder: Path | None,
    settings: Settings,
) -> tuple[JobSpec, RenderInputs, Sequence[str]]:
    """Check all that can be checked without loading the model. Returns the spec with its model, the inputs, warnings.

    Raises:
        OutputError, SpecError, CheckpointError: as `render`. RequestError: the model cannot render what the spec asks
            for. ConfigError: a setting needs a GPU. RoomError: it needs more than LONGTAKE_BLOB_BUDGET_BYTES.
    """
    for name in ("open", "approve"):
        if getattr(spec, name):
            place = spec.source.place(name)
            raise SpecError(f"{place}: `longtake render` waits for nobody; submit the job to a deployment instead")
    spec = _with_model(spec, settings)
    check_sampling(spec, settings)
    check_device(settings)
    prepared = check_submission(
        spec, InMemoryBlobStore(), settings, from_state=state, budget_bytes=settings.blob_budget_bytes
    )
    made_from = inputs_of(prepared.inputs.spec, state, settings)
    loras = [*spec.loras, *([spec.stage2_lora] if spec.stage2_lora else [])]
    named = [*input_paths(spec).values(), spec.upsampler, *(lora.path for lora in loras)]
    files = [*inputs, *(Path(name) for name in named if name)]
    output.check(made_from.job_id, files, report=report_folder)
    return spec, made_from, prepared.warnings


def _film_locked(output: FilmOutput, folder: Path) -> AbstractContextManager[None]:
    """Keep other renders, of whatever spec and user, from this film."""
    if output.film is None:
        return nullcontext()
    make_folder(output.film.parent)
    lock = output.film.with_name(f".{output.film.name}.lock")
    return locked(lock, str(output.film), folder=folder)


def _with_model(spec: JobSpec, settings: Settings) -> JobSpec:
    """`spec` with its model and absolute paths; checks that what it names exists, and that a spec may name it."""
    named = f"{spec.source.place('model')}: " if spec.model else ""
    spec = spec.model_copy(update={"model": spec.model or settings.model}).with_absolute_paths()
    check_model_folders(str(spec.model), spec.loras, settings, spec.more_files, spec.source)
    with private_files():  # configs from the hub
        _resolve_all(spec, named, settings)
    return spec


def _resolve_all(spec: JobSpec, model: str, settings: Settings) -> None:
    """Check that all parts of the model exist. model: begins an error about the model itself.

    Raises:
        CheckpointError: one part of the model does not. SpecError: several do not, or input files neither.
    """
    place = spec.source.place
    problems: list[CheckpointError | SpecError] = []
    if spec.model not in SMALL_MODELS or spec.text_encoder:
        with _noting(problems, model):
            resolve_model(str(spec.model), settings.home / "models", spec.text_encoder)
    for index, lora in enumerate(spec.loras):
        with _noting(problems, f"{place('loras', index, 'path')}: "):
            resolve_lora(lora.path)
    if spec.stage2_lora is not None:
        with _noting(problems, f"{place('stage2_lora', 'path')}: "):
            resolve_lora(spec.stage2_lora.path)
    if spec.upsampler is not None:
        with _noting(problems, f"{place('upsampler')}: "):
            resolve_upsampler(spec.upsampler)
    if problems:  # without, `read_inputs` checks the files
        with _noting(problems, ""):
            check_files(spec)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SpecError("\n".join(map(str, problems)))


@contextmanager
def _noting(problems: list[CheckpointError | SpecError], place: str) -> Iterator[None]:
    """Note an error about a part of the model or a file with `place` before its message, and go on."""
    try:
        yield
    except (CheckpointError, SpecError) as error:
        problems.append(type(error)(f"{place}{error}"))


def watch_with(job: Job, worker: subprocess.Popen[bytes], log: Path) -> Iterator[JobStatus]:
    """The status at every poll until the job ends.

    Raises:
        ServerError: the worker has exited; quotes the last line of its log.
    """
    for status in job.watch(every_poll=True):
        yield status
        if worker.poll() is not None:
            last = processes.last_lines(log, 1)
            raise ServerError(f"the worker exited with status {worker.returncode} (log: {log}): {last}")


def with_warnings(statuses: Iterable[JobStatus], job: Job, show: ProgressDisplay) -> Iterator[JobStatus]:
    """Show the warnings of each segment that is committed; each text once."""
    seen: set[str] = set()
    committed = 0
    for status in statuses:
        for index in range(committed, status.committed):
            for warning in job.warnings(index):
                if warning not in seen:
                    show.say(f"warning: segment {index}: {warning}")
                seen.add(warning)
        committed = max(committed, status.committed)
        yield status


def _handle_interruptions() -> None:
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
