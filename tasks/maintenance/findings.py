"""A finding: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from blobstore.redis.urls import MASK, mask_urls
from tasks.logs import secrets_in

SHOWN = 10


class Severity(StrEnum):
    """Whether a finding keeps a deployment from working."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    about: a part of the deployment, such as `broker`. advice: what to do; empty if the problem says it.
    """

    severity: Severity
    about: str
    problem: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.problem}; {self.advice}" if self.advice else self.problem

    def masked(self, urls: Iterable[str]) -> Finding:
        """This finding without the secrets of `urls`, or of any URL in its text; on one line."""
        secrets = sorted({secret for url in urls for secret in secrets_in(url)}, key=len, reverse=True)

        def clean(text: str) -> str:
            for secret in secrets:
                text = text.replace(secret, MASK)
            return mask_urls("".join(character if character.isprintable() else " " for character in text))

        return replace(self, problem=clean(self.problem), advice=clean(self.advice))


def error(about: str, problem: str, advice: str = "") -> Finding:
    """A finding that keeps the deployment, or a part of it, from working."""
    return Finding(Severity.ERROR, about, problem, advice)


def warning(about: str, problem: str, advice: str = "") -> Finding:
    """A finding that may cost work later."""
    return Finding(Severity.WARNING, about, problem, advice)


def first_few(findings: list[Finding], about: str, what: str) -> Iterator[Finding]:
    """The first of these findings, and how many more there are. what: they, and what is wrong with them."""
    yield from findings[:SHOWN]
    if len(findings) > SHOWN:
        yield warning(about, f"{len(findings) - SHOWN} more {what}")


def has_error(findings: Iterable[Finding]) -> bool:
    """Whether one of these findings is an error."""
    return any(finding.severity == Severity.ERROR for finding in findings)
