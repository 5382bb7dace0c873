"""Reads the spec of a request, with its uploads."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from ltx2.media.images import LARGEST_FILE_BYTES
from ltx2.media.temporary import temporary_folder
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import SpecError
from tasks.field_errors import escaped
from tasks.server.context import ServerContext
from tasks.server.films.blob_files import FOLDERS
from tasks.server.http.answers import invalid
from tasks.spec.head import INPUT_FIELDS
from tasks.spec.images import input_paths, with_paths
from tasks.spec.loader import MAX_SPEC_BYTES, check_spec, data_of
from tasks.spec.places import SpecSource
from tasks.spec.schema import JobSpec

MOST_PARTS = 20
LARGEST_MEDIA_BYTES = 4 * 1024**3
"""Of a video or a sound; the limit of a whole request, LONGTAKE_SERVER_BODY_BYTES, is lower."""
NO_UPLOAD = "must be an upload or a base64 data: URL; no path, no other URL"
DATA = "data:"
_DATA_TEXT = re.compile(rb'"data:[^"]*"')
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")


@dataclass(frozen=True, slots=True)
class SpecRequest:
    """A spec as it was sent. source: for the lines of errors. files: sent with it, see `taken_files`."""

    spec: dict[str, Any]
    source: SpecSource
    files: Mapping[str, bytes] = field(default_factory=dict)
    state: dict[str, Any] | None = None


async def read_spec_request(request: Request) -> SpecRequest:
    """The spec in a request: a JSON body, or a form with `spec` (JSON), `state`, and files by field of the spec.

    Raises:
        RequestError, SpecError: it cannot be read.
    """
    if not is_form(request):
        return await run_in_threadpool(_of_text, await request.body())
    async with read_form(request) as form:
        text = await _text_of(form, "spec")
        if text is None:
            raise invalid("spec: missing; it is the job's spec as JSON", param="spec")
        names = [name for name, part in form.items() if name in INPUT_FIELDS or isinstance(part, UploadFile)]
        sent = {name: await file_of(form, name, limit_of(name)) for name in names if name not in ("spec", "state")}
        state = await _text_of(form, "state")
    files = {name: data for name, data in sent.items() if data}  # a form sends an empty file for none
    found = await run_in_threadpool(_of_text, text, files)
    sent_state = None if state is None else await run_in_threadpool(_json_of, state)
    return SpecRequest(found.spec, found.source, found.files, sent_state)


def is_form(request: Request) -> bool:
    """Whether a request is a form that may have files."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[FormData]:
    """The form in a request, with every field once: which of two would count is not obvious.

    Raises:
        RequestError: it is not of multipart/form-data, or a field is there twice.
    """
    if not is_form(request):
        raise invalid("the request: send a form of multipart/form-data")
    async with request.form(max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=MAX_SPEC_BYTES) as form:
        names = [name for name, _ in form.multi_items()]
        for name in names:
            if names.count(name) > 1:
                raise invalid(f"{escaped(name)[:60]}: given more than once")
        yield form


def requested_spec(context: ServerContext, wanted: SpecRequest) -> JobSpec:
    """The spec of a request; models and parts are names of the table.

    Raises:
        SpecError: it is invalid, or names a file of this machine.
    """
    return without_files(check_spec(context.names.resolved(wanted.spec), source=wanted.source), wanted.files)


def submit_request(context: ServerContext, wanted: SpecRequest, *, idempotency_key: str | None = None) -> Job:
    """Queue what was asked for.

    Raises:
        SpecError: as `requested_spec`. What `submit` raises.
    """
    spec = requested_spec(context, wanted)
    return submit_spec(context, spec, wanted.files, state=wanted.state, idempotency_key=idempotency_key)


def submit_spec(
    context: ServerContext,
    spec: JobSpec,
    files: Mapping[str, bytes],
    *,
    state: dict[str, Any] | None = None,
    idempotency_key: str | None = None,
    sent_as: Mapping[str, str] = MappingProxyType({}),
) -> Job:
    """Queue a job with these images, videos and sound, by field of the spec. sent_as: see `with_uploads`.

    Raises:
        SpecError: the spec names a file of this machine. What `submit` raises.
    """
    with with_uploads(without_files(spec, files), files, sent_as=sent_as) as whole:
        return submit(whole, from_state=state, settings=context.settings, idempotency_key=idempotency_key)


@contextmanager
def with_uploads(
    spec: JobSpec, files: Mapping[str, bytes], *, sent_as: Mapping[str, str] = MappingProxyType({})
) -> Iterator[JobSpec]:
    """A spec with these files, by field of the spec, in a folder for as long; its errors do not name them.

    sent_as: what the caller knows a field as, if not by its name.
    """
    with temporary_folder(f"{FOLDERS}upload-") as folder:
        paths = {name: str(folder / name) for name in files}
        for name, data in files.items():
            Path(paths[name]).write_bytes(data)
        fields = {name: path for name, path in paths.items() if name in INPUT_FIELDS}
        try:
            yield with_paths(spec, paths).model_copy(update=fields)
        except SpecError as error:
            text = str(error)
            for name, path in paths.items():  # the field is named already
                text = text.replace(f"{name}: {path}: ", f"{sent_as.get(name, name)}: ").replace(f"{path}: ", "")
            raise SpecError(text) from None


def without_files(spec: JobSpec, sent: Collection[str] = ()) -> JobSpec:
    """`spec`, which names no image, video or sound but these. SpecError: it does, and this machine would read it."""
    for location, path in input_paths(spec).items():
        if path not in sent:
            raise SpecError(f"{spec.source.place(*location)}: {NO_UPLOAD}")
    return spec


def taken_files(spec: dict[str, Any], files: Mapping[str, bytes] = MappingProxyType({})) -> dict[str, bytes]:
    """The files that were sent for a spec, by field of it: `data:` URLs in it, and those in `files`.

    Those of INPUT_FIELDS are no longer in `spec`; for the others, it has the field's name in place of a path.

    Raises:
        RequestError: a `data:` URL is invalid, or a file is for no field of the spec.
    """
    found = {
        name: data_url(spec.pop(name), name, limit_of(name)) for name in INPUT_FIELDS if isinstance(spec.get(name), str)
    }
    found |= {name: data for name, data in files.items() if name in INPUT_FIELDS}
    for name, table, key in _image_fields(spec):
        value = table.get(key)
        if name in files:
            found[name] = files[name]
        elif isinstance(value, str) and value.startswith(DATA):
            found[name] = data_url(value, name, limit_of(name))
        if name in found:
            table[key] = name
    for name in files:
        if name not in found:
            text = "the spec has no such image; a file has the name of its field, such as segments.0.image"
            raise invalid(f"{escaped(name)[:60]}: {text}", param=name[:60])
    return found


def _image_fields(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Where a spec may name an image other than `image`: the field, the table that has it, and its key there."""
    for number, image in _tables(spec.get("images")):
        yield f"images.{number}.path", image, "path"
    for index, segment in _tables(spec.get("segments")):
        for key in ("image", "end_image"):
            yield f"segments.{index}.{key}", segment, key
        for number, image in _tables(segment.get("images")):
            yield f"segments.{index}.images.{number}.path", image, "path"


def _tables(entries: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entries of a list that are tables, with their numbers."""
    if isinstance(entries, list):
        yield from ((number, entry) for number, entry in enumerate(entries) if isinstance(entry, dict))


def limit_of(name: str) -> int:
    """The most bytes of the file for a field of a spec."""
    return LARGEST_MEDIA_BYTES if name in ("extend", "audio") else LARGEST_FILE_BYTES


async def file_of(form: FormData, name: str, limit_bytes: int) -> bytes | None:
    """The bytes of an upload; None if there is none.

    Raises:
        RequestError: it is larger than the limit, or not a file.
    """
    part = form.get(name)
    if part is None:
        return None
    if not isinstance(part, UploadFile):
        return data_url(part, name, limit_bytes)
    if part.size is not None and part.size > limit_bytes:
        raise invalid(f"{name}: larger than {limit_bytes:,} bytes", param=name)
    return await part.read()


def data_url(text: str, name: str, limit_bytes: int) -> bytes:
    """The bytes of a `data:` URL. RequestError: it is none, or holds more than the limit."""
    found = _DATA_URL.match(text)
    if found is None:
        raise invalid(f"{name}: {NO_UPLOAD}", param=name)
    if len(text) > limit_bytes * 4 // 3 + 100:
        raise invalid(f"{name}: larger than {limit_bytes:,} bytes", param=name)
    try:
        return base64.b64decode(text[found.end() :], validate=True)
    except binascii.Error:
        raise invalid(f"{name}: its base64 is damaged", param=name) from None


def _of_text(data: bytes, files: Mapping[str, bytes] = MappingProxyType({})) -> SpecRequest:
    spec, source = fields_in(data, "spec")
    return SpecRequest(spec, source, taken_files(spec, files))


def fields_in(data: bytes, name: str) -> tuple[dict[str, Any], SpecSource]:
    """The fields in the JSON or YAML of a request, unchecked. It may take seconds, so it is called in a thread.

    Raises:
        RequestError: it is larger than a spec may be, without its `data:` URLs. SpecError: it is no mapping.
    """
    if len(data) - sum(len(url[0]) for url in _DATA_TEXT.finditer(data)) > MAX_SPEC_BYTES:
        raise invalid(f"{name}: larger than {MAX_SPEC_BYTES:,} bytes", status=413, code="too_large", param=name)
    return data_of(data, name)


async def _text_of(form: FormData, name: str) -> bytes | None:
    part = form.get(name)
    if isinstance(part, UploadFile):
        return await part.read()
    return None if part is None else part.encode()


def _json_of(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise SpecError("state: not JSON; it is what `longtake state export` writes") from None
    if not isinstance(value, Mapping):
        raise SpecError("state: must be a mapping with `kind` and `payload`")
    return dict(value)
