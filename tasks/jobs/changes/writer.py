"""Changes job records: every change is one Lua script, and this is how they are run."""

from __future__ import annotations

import re
import secrets
from typing import Any

import redis

from blobstore.redis.outages import PROBE_KEY
from tasks.errors import KeyTypeError, RecordError, VersionError
from tasks.jobs.connection import when_there_is_memory
from tasks.jobs.key_types import WRONG_TYPE, wrong_parts
from tasks.jobs.reader import JobReader
from tasks.jobs.scripts import load_scripts

NEWER = "NEWER"
DAMAGED = re.compile(r"\bDAMAGED ([^;]*);")


class JobWriter(JobReader):
    """The job records of one deployment, for changing. A patient one waits when Redis is full.

    Every method of its subclasses raises VersionError, and changes nothing, for a job that a newer major version wrote.
    """

    def __init__(self, client: redis.Redis, *, patient: bool = False) -> None:
        super().__init__(client)
        self.patient = patient
        self._scripts = load_scripts(client)

    def check_writable(self) -> None:
        """Ask for a write that changes nothing: a server that takes none is known before it is asked for a change.

        Raises:
            redis.RedisError: it takes no writes, or cannot be reached.
        """
        self._redis.delete(PROBE_KEY)

    def _run(self, script: str, keys: list[str], *args: Any) -> Any:
        try:
            return when_there_is_memory(lambda: self._scripts[script](keys=keys, args=args), patient=self.patient)
        except redis.ResponseError as error:
            if is_newer_reply(error):
                raise VersionError("this job") from None
            if damage := DAMAGED.search(str(error)):
                raise RecordError(f"its record is damaged: {damage[1]}") from None
            if WRONG_TYPE in str(error) and not isinstance(error, KeyTypeError):
                for wrong in wrong_parts(self._redis, keys):
                    raise RecordError(f"its record is damaged: {wrong}") from None
            raise


def new_token() -> str:
    """A random token, of a request or a claim."""
    return secrets.token_hex(16)


def is_newer_reply(reply: object) -> bool:
    """Whether a script refused to change what a newer major version wrote."""
    return isinstance(reply, redis.ResponseError) and str(reply).startswith(NEWER)
