"""A deployment as a process sees it: settings, job store, blob store, publisher."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from types import TracebackType
from typing import Self

from blobstore import BlobNotFoundError, ManagedBlobStore, open_blob_store
from tasks.jobs.connection import connect, patience_s
from tasks.jobs.store import JobStore
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings


def pin_stored(
    blobs: ManagedBlobStore, blob_ids: Collection[str], owner: str, *, put_again: Callable[[], object]
) -> None:
    """Pin blobs that were just put. put_again: puts them once more, if the blob server lost its data meanwhile."""
    try:
        blobs.pin(blob_ids, owner)
    except BlobNotFoundError:
        put_again()
        blobs.pin(blob_ids, owner)


class Deployment:
    """The servers of one deployment, each connected on first use. A context manager: leaving it closes them.

    A patient one waits about a minute for a server that is out; clients are not patient, workers are.
    """

    def __init__(self, settings: Settings, *, patient: bool = False) -> None:
        self.settings = settings
        self._patient = patient

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def jobs(self) -> JobStore:
        """The job records."""
        client = connect(
            self.settings.redis_url,
            patient=self._patient,
            reply_timeout_s=self.settings.reply_timeout_s,
            typed=not self._patient,
        )
        return JobStore(client, self.settings, patient=self._patient)

    @cached_property
    def blobs(self) -> ManagedBlobStore:
        """The blob store."""
        return open_blob_store(
            self.settings.blobs,
            ttl_s=self.settings.blob_grace_s,
            patience_s=patience_s(patient=self._patient),
            reply_timeout_s=self.settings.reply_timeout_s,
        )

    @cached_property
    def publisher(self) -> Publisher:
        """Sends messages."""
        return Publisher(make_app(self.settings, results=False), self.jobs)

    def budget_bytes(self) -> int | None:
        """The blob budget in bytes: the workers', else that of the settings; None: no limit."""
        return self.jobs.budget_bytes() or self.settings.blob_budget_bytes

    def store_for_job(self, job_id: str, data: bytes, mime: str) -> str:
        """Store `data` as long as the job's record lives; returns the blob id."""

        def put() -> str:
            return self.blobs.put(data, mime=mime, owner=job_id)

        blob_id = put()
        pin_stored(self.blobs, [blob_id], job_id, put_again=put)
        return blob_id

    def close(self) -> None:
        """Close every connection; a later use opens them again."""
        opened = self.__dict__
        if publisher := opened.pop("publisher", None):
            publisher.close()
        if blobs := opened.pop("blobs", None):
            blobs.close()
        if jobs := opened.pop("jobs", None):
            jobs.close()
