"""Checks and reads all that a submission is made of. Nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blobstore import BlobStore
from tasks.client.inputs.reading import Inputs, read_inputs
from tasks.client.submissions.small_model import size_warnings
from tasks.client.submissions.state_files import read_state, refuse_first_cut, start_handoff
from tasks.client.submissions.submission import Draft, request_digest
from tasks.errors import SpecError
from tasks.field_errors import FieldError
from tasks.jobs.committed import Committed
from tasks.jobs.queues import Priority
from tasks.jobs.state_wire import handoff_blobs
from tasks.maintenance.admission import check_room
from tasks.settings import Settings
from tasks.spec.images import input_paths
from tasks.spec.model_policy import check_model_folders, not_here
from tasks.spec.schema import JobSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission whose files are read. envelope: the state that it continues. warnings: one sentence each."""

    inputs: Inputs
    envelope: Mapping[str, Any] | None
    warnings: tuple[str, ...]

    def draft(
        self, blobs: BlobStore, settings: Settings, *, has_key: bool = False, priority: Priority = Priority.NORMAL
    ) -> Draft:
        """The job as it will be created. blobs: where those of the state are that it does not have inline.

        Raises:
            SpecError: the state cannot be continued by this spec.
        """
        inputs, start = self.inputs, self.inputs.start
        if self.envelope is not None:
            start = start_handoff(dict(self.envelope), inputs.spec, blobs, inputs.pending, settings)
        committed = Committed(start, video_after=inputs.video_after)
        given = [blob_id for handoff in committed.given for blob_id in handoff_blobs(handoff)]
        blob_ids = list(dict.fromkeys([*input_paths(inputs.spec).values(), *given]))
        digest = request_digest(inputs.spec, self.envelope) if has_key else ""
        return Draft(inputs.spec, committed, blob_ids, digest, inputs.pending, priority)


def prepare(
    spec: JobSpec, settings: Settings, *, from_state: Path | Mapping[str, Any] | None, with_video: bool
) -> Prepared:
    """Check a spec and what it starts from, and read the files that it names. from_state, with_video: as of `submit`.

    Raises:
        SpecError: an invalid spec, state or file; names the field.
    """
    spec = spec.with_absolute_paths()  # workers run elsewhere
    model = spec.model or settings.model
    check_model_folders(model, spec.loras, settings, spec.more_files, spec.source)
    try:
        spec.check_length(model)
        spec.check_neighbours(continues=from_state is not None)
    except FieldError as error:
        raise SpecError(f"{spec.source.place(*error.location)}: {error}") from None
    if from_state is not None:
        _check_continues_state(spec)
    inputs = read_inputs(
        spec,
        continues=from_state is not None,
        with_video=with_video,
        inline_threshold_bytes=settings.inline_threshold_bytes,
    )
    warnings = (*not_here(spec, settings), *size_warnings(spec, settings), *inputs.warnings)
    envelope = from_state if from_state is None or isinstance(from_state, Mapping) else read_state(Path(from_state))
    return Prepared(inputs, envelope, warnings)


def check_submission(
    spec: JobSpec,
    blobs: BlobStore,
    settings: Settings,
    *,
    from_state: Path | Mapping[str, Any] | None,
    budget_bytes: int | None,
) -> Prepared:
    """Check all that `submit` checks. budget_bytes: of the deployment's blobs; None: no limit.

    Raises:
        SpecError: as `prepare`, or the state cannot be continued. RoomError: the job needs more than the budget.
    """
    prepared = prepare(spec, settings, from_state=from_state, with_video=False)
    check_room(prepared.draft(blobs, settings).needs_bytes(), budget_bytes)
    return prepared


def _check_continues_state(spec: JobSpec) -> None:
    place = spec.source.place
    refuse_first_cut(spec)
    if (given := spec.extend or spec.audio) is not None:
        field = "extend" if spec.extend is not None else "audio"
        raise SpecError(f"{place(field)}: {given}: a job that continues a state cannot have it; remove it")
    if spec.image is not None:
        raise SpecError(
            f"{place('image')}: a job that continues a state starts with that state's frames; remove one of the two"
        )
