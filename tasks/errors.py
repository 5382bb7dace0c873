"""The errors of `tasks`, one tree.

LongtakeError                 shown to people as one line, without a traceback
├── ConfigError               a setting that cannot be (also a ValueError)
├── SpecError                 a job spec that cannot be; names line and field (also a ValueError)
├── JobNotFoundError          no job of this id (also a KeyError)
├── JobStateError             the job is not in a state that allows this
├── JobFailedError            the job ended without a film
├── RoomError                 a job that no blob budget like this can hold
├── MessageError              a message that no longtake wrote (also a ValueError)
├── ServerError               Redis cannot be reached, started or used
└── OutputError               the film cannot be written where it should go
"""

from __future__ import annotations


class LongtakeError(Exception):
    """Whatever goes wrong in `tasks`; the text is meant for people."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.__class__.__name__


class ConfigError(LongtakeError, ValueError):
    """A setting that cannot be; the message names the variable."""


class SpecError(LongtakeError, ValueError):
    """A job spec that cannot be; one `where: what` line per problem."""


class JobNotFoundError(LongtakeError, KeyError):
    """No job of this id."""


class JobStateError(LongtakeError):
    """The job is not in a state that allows what was asked."""


class JobFailedError(LongtakeError):
    """The job ended without a film."""


class RoomError(LongtakeError):
    """A job that needs more bytes of blobs than the whole budget; the message names both."""


class MessageError(LongtakeError, ValueError):
    """A message that no longtake wrote: refused and not retried."""


class ServerError(LongtakeError):
    """Redis cannot be reached, started or used."""


class OutputError(LongtakeError):
    """The film cannot be written where it should go."""
