"""Sends webhooks by the conventions of Standard Webhooks: signed, once at least, again after a while if they fail."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx2
import redis
from standardwebhooks.webhooks import Webhook

from blobstore import BlobStoreError
from tasks.errors import LongtakeError
from tasks.jobs.events import Event, EventKind, EventReader
from tasks.jobs.outbox import Delivery, Outbox
from tasks.jobs.store import JobStore
from tasks.server.events.addresses import AddressError, checked_addresses, target_of
from tasks.server.http.answers import without_paths
from tasks.settings import Settings

log = logging.getLogger(__name__)
SENT = (EventKind.ACCEPTED, EventKind.SEGMENT, EventKind.DONE, EventKind.FAILED, EventKind.CANCELLED)
"""The kinds that are sent; steps and clips would only be noise."""
RETRY_AFTER_S: Sequence[float] = (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600)
LOCK_S = 30.0
POLL_S = 0.5
TIMEOUT_S = 10.0
LONGEST_S = 20.0
"""Of one attempt with its redirects, within LOCK_S: others wait for it."""
AT_ONCE = 16
MOST_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)


class Sender:
    """Fills the outbox from the events of all jobs, and empties it. One server of a deployment does it at a time."""

    def __init__(self, settings: Settings, jobs: JobStore, events: EventReader, outbox: Outbox) -> None:
        self._settings = settings
        self._jobs = jobs
        self._events = events
        self._outbox = outbox
        self._closing = False
        self._signer = None if settings.webhook_secret is None else Webhook(settings.webhook_secret)

    async def run(self) -> None:
        """Send until `close`; outages are waited for."""
        while not self._closing:
            try:
                if await asyncio.to_thread(self._outbox.lock, LOCK_S):
                    await asyncio.to_thread(self._collect)
                    due = await asyncio.to_thread(self._outbox.due, AT_ONCE)
                    await asyncio.gather(*(self._send(delivery) for delivery in due))
                    if due:
                        continue
            except (redis.RedisError, BlobStoreError):
                pass  # the connection has logged it
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(self._outbox.unlock)

    def close(self) -> None:
        """End `run` after what is being sent."""
        self._closing = True

    def _collect(self) -> None:
        """Put new events of jobs with a webhook into the outbox."""
        while page := self._events.after(self._outbox.place()):
            self._outbox.add([event for event in page if self._is_sent(event)], page[-1].id)

    def _is_sent(self, event: Event) -> bool:
        return event.kind in SENT and self._url_of(event.job_id) is not None

    def _url_of(self, job_id: str) -> str | None:
        try:
            return self._jobs.head(job_id).webhook
        except LongtakeError:
            return None  # the job is gone, or its record is damaged

    async def _send(self, delivery: Delivery) -> None:
        url = await asyncio.to_thread(self._url_of, delivery.job_id)
        problem = "the job is gone" if url is None else await self._problem_with(url, delivery)
        again = None
        if problem is not None and url is not None and delivery.attempts < len(RETRY_AFTER_S):
            again = RETRY_AFTER_S[delivery.attempts]
        await asyncio.to_thread(self._outbox.note, delivery, problem=problem, again_in_s=again)
        if problem is not None:
            extra = "given up" if again is None else f"tried again in {again:g} s"
            log.warning("webhook of job %s, %s: %s; %s", delivery.job_id, delivery.kind, problem, extra)

    async def _problem_with(self, url: str, delivery: Delivery) -> str | None:
        """Send one message; why it failed, or None."""
        try:
            body = _body(delivery)
            headers = {"content-type": "application/json", **self._signature(delivery, body)}
            async with asyncio.timeout(LONGEST_S):
                target = target_of(url)
                for _ in range(MOST_REDIRECTS + 1):
                    answer = await self._post(target, body, headers)
                    if answer.status_code not in REDIRECTS or "location" not in answer.headers:
                        return None if answer.is_success else f"the receiver answered {answer.status_code}"
                    target = target_of(answer.headers["location"], before=target)
        except TimeoutError:
            return f"the receiver took more than {LONGEST_S:g} s"
        except (AddressError, httpx2.HTTPError) as error:
            return str(error) or type(error).__name__
        except Exception as error:  # whatever one receiver provokes, the others get theirs
            log.exception("a webhook of job %s", delivery.job_id)
            return type(error).__name__
        return f"more than {MOST_REDIRECTS} redirects"

    async def _post(self, target: httpx2.URL, body: str, headers: dict[str, str]) -> httpx2.Response:
        """Post to an address that was checked: a name could mean another one a moment later."""
        allow = self._settings.webhook_private
        address = (await asyncio.to_thread(checked_addresses, target, allow_private=allow))[0]
        named = headers | {"host": target.netloc.decode("ascii")}
        extensions = {"sni_hostname": target.raw_host.decode("ascii")}
        place = target.copy_with(host=address)
        async with (
            httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client,
            client.stream("POST", place, content=body, headers=named, extensions=extensions) as answer,
        ):
            return answer

    def _signature(self, delivery: Delivery, body: str) -> dict[str, str]:
        message_id, now = f"{delivery.job_id}-{delivery.event_id}", datetime.now(UTC)
        headers = {"webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(message_id, now, body)
        return headers


def _body(delivery: Delivery) -> str:
    data = {"job": delivery.job_id, **delivery.data}
    if isinstance(data.get("reason"), str):
        data["reason"] = without_paths(data["reason"])
    at = datetime.fromtimestamp(delivery.at, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": f"job.{delivery.kind}", "timestamp": at, "data": data})
