"""The command's root, how it shows errors, and what several commands share."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import click
import redis

from blobstore import BlobStoreError
from ltx2.errors import LTX2Error
from tasks.client.display.terminal import accept_any_text, show_line, show_lines
from tasks.errors import LongtakeError, SpecError
from tasks.jobs.connection import refused, unreachable
from tasks.settings import Settings, misspelt

FROM_STATE_HELP = "Continue this state, a file written by `longtake state export`."
spec_argument = click.argument("spec", type=click.Path(path_type=Path, allow_dash=True))
job_argument = click.argument("job")
state_option = click.option("--from-state", "state", type=click.Path(path_type=Path), help=FROM_STATE_HELP)
out_option = click.option(
    "-o",
    "--output",
    "out",
    required=True,
    help="The film's file, such as film.mp4, in a folder that is made if it is missing; - is standard output.",
)
summary_option = click.option(
    "--summary",
    type=click.Path(path_type=Path),
    help="The file for the film's summary; default: NAME.report.json next to the film.",
)
force_option = click.option("--force", is_flag=True, help="Replace an existing file.")
model_option = click.option("--model", help="Render with this model instead of the spec's.")
seed_option = click.option("--seed", type=int, help="Render with this seed instead of the spec's.")
before_option = click.option(
    "--before", is_flag=True, help="Lead into the video that the spec extends, instead of continuing it."
)


OWN_LOG = ("worker", "serve")
"""The commands that run until they are stopped, and write a log."""


def show_warnings(warnings: Iterable[str]) -> None:
    """Show warnings on stderr, one line each."""
    show_lines([f"warning: {warning}" for warning in warnings], err=True)


class _Warnings(logging.Handler):
    """Shows the warnings of this process. What is worse ends the command, and is shown as its error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record of the log."""
        if record.levelno == logging.WARNING:
            show_warnings([record.getMessage()])


_warnings = _Warnings()


class _Longtake(click.Group):
    """Shows every expected error as one line on stderr, with exit status 1."""

    def invoke(self, context: click.Context) -> Any:
        accept_any_text()
        try:
            return super().invoke(context)
        except SpecError as error:  # the only one with several lines
            _fail(str(error))
        except (LongtakeError, LTX2Error, BlobStoreError) as error:
            _fail(" ".join(str(error).split("\n")))
        except (redis.ConnectionError, redis.TimeoutError) as error:
            _fail(unreachable(Settings.from_env().redis_url, error))
        except redis.RedisError as error:
            _fail(refused(Settings.from_env().redis_url, error))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader of our output has closed it: click exits quietly
            _fail(str(error))
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else context.command_path
            _fail(f"{error.format_message()} See `{command} --help`.", status=2)


def _fail(message: str, *, status: int = 1) -> NoReturn:
    for line in message.split("\n"):
        show_line(f"longtake: {line}", err=True)
    sys.exit(status)


@click.group(cls=_Longtake, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="longtake", message="longtake %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Render videos of any length with LTX-2, segment by segment.

    SPEC is a YAML or JSON file that describes a film; `longtake init` writes one. JOB is a job's id, or its first
    characters. docs/glossary.md explains the words.

    On one machine: `longtake render SPEC -o film.mp4`. On many: start `longtake worker` where the GPUs are,
    then `longtake submit SPEC`, `watch` and `save` from anywhere. LONGTAKE_REDIS_URL says where Redis is.
    """
    if context.invoked_subcommand not in OWN_LOG:
        logging.getLogger("tasks").addHandler(_warnings)
    if context.invoked_subcommand != "worker":  # which says the same when it loads the application
        for line in misspelt():
            show_line(f"longtake: {line}", err=True)
