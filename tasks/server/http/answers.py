"""Errors as the server answers them: one JSON form, and no path of this machine."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match, Mount

from blobstore import BlobCorruptError, BlobNotFoundError, BlobStoreError
from ltx2.errors import LTX2Error
from tasks.errors import (
    JobFailedError,
    JobNotFoundError,
    JobStateError,
    LongtakeError,
    MaybeQueuedError,
    RoomError,
    ServerError,
    SpecError,
)
from tasks.field_errors import UNKNOWN_KEY, escaped, explain, field_path, similar_key

log = logging.getLogger(__name__)
INVALID = "invalid_request_error"
FAULT = "server_error"
NOT_AGAIN = {"x-should-retry": "false"}
"""The header that keeps the `openai` client from asking again by itself, as it does after 409 and 503."""
EXPECTED = (LongtakeError, LTX2Error, BlobStoreError, redis.RedisError)
"""Errors that `problem_of` explains."""
_FASTAPI_HAS_NO_REASON = "There was an error parsing the body"
_PATH = re.compile(r"(?<![\w:/.])(?:~|[A-Za-z]:)?(?:/[^\s/'\"<>|:;,]+){2,}/?")
_FIELD = re.compile(r"(?:(?:spec|request)(?::\d+)?: )?(?P<field>[a-z_][\w.]*): ")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request has no result. type: `invalid_request_error` or `server_error`. param: the field to blame."""

    status: int
    message: str
    type: str = INVALID
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class ErrorBody(BaseModel):
    """What is wrong. type: `invalid_request_error` or `server_error`. param: the field to blame."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The answer to a request that has no result, in the form of the OpenAI API."""

    error: ErrorBody


_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request cannot be done as it is.", "content": _ERROR},
    "5XX": {"description": "The server or the deployment cannot do it now.", "content": _ERROR},
}
"""Answers that every request may get, for the OpenAPI document."""


def content(*kinds: str, in_parts: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a request answers that is not JSON, for the OpenAPI document. in_parts: `Range` is honoured."""
    whole: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in kinds}}}
    part = {
        "description": "The bytes that `Range` names.",
        "content": {**whole[200]["content"], "multipart/byteranges": {}},
    }
    known = {"description": "`If-None-Match` names what the client has: it did not change."}
    return whole | {206: part, 304: known} if in_parts else whole


class RequestError(LongtakeError):
    """A request that cannot be done as it is; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def invalid(
    message: str,
    *,
    param: str | None = None,
    status: int = 400,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> RequestError:
    """An error that the caller can mend."""
    return RequestError(Problem(status, message, INVALID, code, param, headers or {}))


def answer(problem: Problem) -> JSONResponse:
    """The answer, in the form of the OpenAI API."""
    error = ErrorBody(message=problem.message, type=problem.type, param=problem.param, code=problem.code)
    return JSONResponse(ErrorAnswer(error=error).model_dump(), problem.status, problem.headers)


def without_paths(text: str) -> str:
    """`text` without absolute paths; of each, only its last part is left."""
    return _PATH.sub(lambda found: found.group().rstrip("/").rpartition("/")[2], text)


def problem_of(error: Exception) -> Problem:
    """What a caller is told about an error of longtake."""
    if isinstance(error, RequestError):
        return error.problem
    if _is_disk_full(error):
        log.warning("the disk for temporary files is full: %s", error)
        return Problem(507, "the server's disk for temporary files is full", FAULT, "no_room")
    text = without_paths(escaped(str(error).replace("\n", "; ")))
    if isinstance(error, SpecError):
        found = _FIELD.match(text)
        return Problem(400, text, INVALID, "invalid_spec", found and found["field"])
    if isinstance(error, JobNotFoundError):
        return Problem(404, text.replace("`longtake list` shows", "`GET /jobs` lists"), INVALID, "not_found")
    if isinstance(error, RoomError):
        return Problem(507, text, FAULT, "no_room")
    if isinstance(error, JobStateError | JobFailedError):
        return Problem(409, text, INVALID, "wrong_state", headers=NOT_AGAIN)
    if isinstance(error, BlobNotFoundError | BlobCorruptError):
        return Problem(410, "a part of this job is lost; `retry` renders it again", INVALID, "lost")
    if isinstance(error, MaybeQueuedError):
        return Problem(503, text, FAULT, "maybe_queued", headers=NOT_AGAIN)  # else it would be two jobs
    if isinstance(error, ServerError | redis.RedisError | BlobStoreError):
        log.warning("a server of the deployment: %s", error)
        return Problem(503, "a server of the deployment cannot be reached; try again", FAULT, "unavailable")
    return Problem(500, text, FAULT, "internal")


def _is_disk_full(error: Exception) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(one, OSError) and one.errno in full for one in (error, error.__context__))


def _keys_at(body: Any, location: Sequence[str | int]) -> list[str]:
    """The keys of the table at `location` in the body of a request. body: FastAPI's description of it."""
    table: Any = body.field_info.annotation if body is not None else None
    for step in location:
        model = _model_in(table)
        if isinstance(step, str) and model is not None and step in model.model_fields:
            table = model.model_fields[step].annotation
    model = _model_in(table)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model in an annotation, such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _methods_at(request: Request) -> list[str]:
    """The methods that the path of a request has; none: it is of the files of the pages."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    scope = dict(request.scope)

    def has(method: str) -> bool:
        return any(route.matches({**scope, "method": method})[0] == Match.FULL for route in routes)

    found = [method for method in ("GET", "POST", "PUT", "DELETE") if has(method)]
    return ["HEAD", *found] if "GET" in found else found


def add_error_answers(app: FastAPI) -> None:
    """Have every error answered in the same form."""

    async def ours(_: Request, error: Exception) -> JSONResponse:
        return answer(problem_of(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status, text, headers = error.status_code, str(error.detail), error.headers or {}
        if status == 400:  # the only ones of the libraries are about bodies
            why = "" if text == _FASTAPI_HAS_NO_REASON else f": {text}"
            return answer(Problem(400, f"the request: its body cannot be read{why}", INVALID, "invalid_field"))
        if status == 405:
            text = f"{request.method} is not allowed here"
            if found := _methods_at(request):  # theirs names those of one function
                headers = {"Allow": ", ".join(found)}
        codes = {404: "not_found", 405: "method_not_allowed"}
        return answer(Problem(status, text, INVALID, codes.get(status), None, headers))

    async def fields(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first: Any = error.errors()[0]
        location = first["loc"][1:]
        if first["type"] == "json_invalid":
            return answer(Problem(400, "the request: not valid JSON", INVALID, "invalid_field"))
        if not location and isinstance(first["input"], bytes):
            text = "the request: send its JSON with the header Content-Type: application/json"
            return answer(Problem(400, text, INVALID, "invalid_field"))
        place = field_path(location) or "the request"
        text = f"{place}: {explain(first)}"
        if first["type"] in UNKNOWN_KEY:
            keys = _keys_at(getattr(request.scope.get("route"), "body_field", None), location[:-1])
            known = f"the keys are {', '.join(keys)}"
            text += f"; {similar_key(str(location[-1]), keys) or known}"
        return answer(Problem(400, text, INVALID, "invalid_field", place))

    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return answer(Problem(500, "the server failed; its log says why", FAULT, "internal"))

    async def system(request: Request, error: Exception) -> JSONResponse:
        return await (ours if _is_disk_full(error) else unexpected)(request, error)

    async def left(_: Request, error: Exception) -> JSONResponse:
        return answer(Problem(400, "the request ended before its body did"))  # nobody reads it

    app.add_exception_handler(ClientDisconnect, left)
    for kind in EXPECTED:
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(OSError, system)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, fields)
    app.add_exception_handler(Exception, unexpected)
