"""The errors of `tasks`, one tree.

LongtakeError                 shown to people as one line, without a traceback
├── ConfigError               an invalid setting (also a ValueError)
├── SpecError                 an invalid job spec; names line and field (also a ValueError)
├── JobNotFoundError          no job has this id (also a KeyError)
├── JobStateError             the job is not in a state that allows this
├── JobFailedError            the job ended without a film
├── WaitTimeoutError          the job is not done after the time to wait (also a TimeoutError)
├── RoomError                 a job that needs more blobs than the whole budget
├── HostFaultError            this host cannot render: its device, a library, or LONGTAKE_MODEL
├── FlatSegmentError          a segment of one colour, where LONGTAKE_FLAT_SEGMENTS is error
├── WorkFailedError           a unit of work failed; what a failed Celery task shows
├── MessageError              an invalid message (also a ValueError)
├── RecordError               a stored record that is damaged
├── VersionError              stored or sent by a newer major version
├── ServerError               Redis cannot be reached, started or used
│   ├── UnreachableError      Redis does not answer (also a redis.ConnectionError)
│   ├── MaybeQueuedError      the reply to a submission was lost, so the job may be queued
│   └── KeyTypeError          a key of the deployment holds another type (also a redis.ResponseError)
└── OutputError               the film cannot be written where it should go
"""

from __future__ import annotations

import redis


class LongtakeError(Exception):
    """Any error of `tasks`; the text is meant for people."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.__class__.__name__


class ConfigError(LongtakeError, ValueError):
    """An invalid setting; the message names the variable."""


class SpecError(LongtakeError, ValueError):
    """An invalid job spec; one `where: what` line per problem."""


class JobNotFoundError(LongtakeError, KeyError):
    """No job has this id."""


class JobStateError(LongtakeError):
    """The job is not in a state that allows the request."""


class JobFailedError(LongtakeError):
    """The job ended without a film."""


class WaitTimeoutError(LongtakeError, TimeoutError):
    """The job is not done after the time to wait; it goes on."""


class RoomError(LongtakeError):
    """A job that needs more bytes of blobs than the whole budget; the message names both."""


class HostFaultError(LongtakeError):
    """This host cannot render: its device, a library, or LONGTAKE_MODEL fails. No job is to blame."""


class FlatSegmentError(LongtakeError):
    """A continuation that has one colour after pictures that have not, where LONGTAKE_FLAT_SEGMENTS is error."""


class WorkFailedError(LongtakeError):
    """A unit of work failed: the reason, and what became of the unit. Celery shows it as the task's failure."""


class MessageError(LongtakeError, ValueError):
    """An invalid message: rejected and not retried."""


class RecordError(LongtakeError):
    """A stored record that is damaged; the message says which one."""


class VersionError(LongtakeError):
    """Stored or sent by a newer major version; this process must not change it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: written by a newer longtake; upgrade this worker")


class ServerError(LongtakeError):
    """Redis cannot be reached, started or used."""


class UnreachableError(ServerError, redis.ConnectionError):
    """Redis does not answer; the message says where, why, and what to do. reason: only why."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class MaybeQueuedError(ServerError):
    """The reply to a submission was lost. job_id: the job, which may be queued."""

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class KeyTypeError(ServerError, redis.ResponseError):
    """A key that all jobs share holds another type; the message says which one, and what to do."""


class OutputError(LongtakeError):
    """The film cannot be written to its path."""
