"""Webhooks: signed, sent again until they arrive, never to a private address unless allowed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from standardwebhooks.webhooks import Webhook

from tasks.server.events import addresses
from tasks.server.events.addresses import AddressError, checked_addresses, is_public, target_of
from tasks.settings import Settings
from tests.conftest import Worker, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server
from tests.tasks.server.exchanges import finished, submitted

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """An HTTP server that keeps what it gets, and answers as told."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.messages.append((self.path, dict(self.headers.items()), body))
                status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def of_job(self, job_id: str) -> list[dict[str, Any]]:
        """The messages about a job, in the order in which they came."""
        found = [json.loads(body) for _, _, body in self.messages]
        return [message for message in found if message["data"]["job"] == job_id]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_secret": SECRET, "webhook_private": True})


def arrived(client: httpx2.Client, job_id: str) -> list[dict[str, Any]]:
    """The deliveries of an ended job, once all of them arrived; those that are due together may do so in any order."""

    def whole() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = client.get(f"/jobs/{job_id}/webhooks").json()
        has_end = any(delivery["kind"] in ("done", "cancelled") for delivery in found)
        return found if has_end and all(delivery["delivered_at"] for delivery in found) else None

    deliveries: list[dict[str, Any]] = wait_until(whole, what="every webhook")
    return deliveries


def test_what_becomes_of_a_job_is_sent_and_signed(client: httpx2.Client, worker: Worker, receiver: Receiver) -> None:
    # When
    job_id = submitted(client, spec("a", "b", webhook=receiver.url))
    finished(client, job_id)
    deliveries = arrived(client, job_id)
    # Then each event is sent once, with a signature that the receiver's library accepts
    kinds = sorted(message["type"] for message in receiver.of_job(job_id))
    assert kinds == ["job.accepted", "job.done", "job.segment", "job.segment"]
    for _, headers, body in receiver.messages:
        Webhook(SECRET).verify(body, {name.lower(): value for name, value in headers.items()})
    # And the job tells what became of them
    assert [(found["attempts"], found["problem"]) for found in deliveries] == [(1, None)] * 4


def test_a_message_that_fails_is_sent_again_under_the_same_id(
    client: httpx2.Client, receiver: Receiver, server: Server
) -> None:
    # Given a receiver that fails once
    receiver.answers = [(503, {})]
    # When a job that no worker works on begins and ends
    job_id = submitted(client, spec(open=True, webhook=receiver.url))
    client.post(f"/jobs/{job_id}/cancel")

    def both() -> bool:
        return all(found["delivered_at"] for found in client.get(f"/jobs/{job_id}/webhooks").json())

    wait_until(lambda: len(receiver.of_job(job_id)) == 3 and both(), what="the second attempt")
    # Then
    ids = [headers["webhook-id"] for _, headers, _ in receiver.messages]
    assert len(ids) == len(set(ids)) + 1
    assert sorted(found["attempts"] for found in client.get(f"/jobs/{job_id}/webhooks").json()) == [1, 2]


def test_redirects_are_followed_a_few_times(client: httpx2.Client, receiver: Receiver) -> None:
    """Those that lead nowhere, and names that are not ASCII, stop no other webhook."""
    # Given
    others = [
        submitted(client, spec("a", webhook=url))
        for url in ("http://bücher.localhost:1/", "http://[::1", f"http://{'a' * 70}.example/")
    ]
    receiver.answers = [(307, {"location": "http://[::1"}), (307, {"location": "//:x"}), (307, {"location": "/other"})]
    # When
    job_ids = [submitted(client, spec("a", webhook=receiver.url)) for _ in range(3)]
    # Then
    wait_until(lambda: any(path == "/other" for path, _, _ in receiver.messages), what="the redirect")
    for job_id in (*job_ids, *others):
        client.post(f"/jobs/{job_id}/cancel")


def test_nothing_is_sent_to_private_addresses(
    client: httpx2.Client, receiver: Receiver, server: Server, settings: Settings
) -> None:
    # Given a server that may not
    server.stop()
    server.settings = settings.model_copy(update={"webhook_private": False})
    server.start()
    try:
        # When
        job_id = submitted(client, spec("a", webhook=receiver.url))
        refused = wait_until(
            lambda: [one for one in client.get(f"/jobs/{job_id}/webhooks").json() if one["problem"]], what="a refusal"
        )
        # Then
        assert refused[0]["problem"] == "its host 127.0.0.1 is not a public address"
        assert receiver.messages == []
        client.post(f"/jobs/{job_id}/cancel")
    finally:
        server.stop()
        server.settings = settings
        server.start()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
     "::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "::", "64:ff9b::a00:1",
     "64:ff9b:1::a00:1", "::a00:1", "::ffff:0:a00:1", "fec0::1", "4000::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com", "http or https"),
        ("http://user@example.com", "without a user"),
        ("http://example.com:x", "not a URL"),
        ("http://example.com:99999/", "between 1 and 65535"),
        ("http://[::1", "not a URL"),
        ("http://[fe80::1%25lo]/", "unknown"),
        ("http://a\x00b/", "not a URL"),
        (f"http://{'a' * 70}.example/", "unknown"),
        ("http://a..b/", "unknown"),
        ("http://", "with a host"),
        ("http://127.1/", "not a public address"),
        ("http://0x7f000001/", "not a public address"),
        ("http://2130706433/", "not a public address"),
        ("http://[::1]/", "not a public address"),
        ("http://localhost/", "not a public address"),
        ("http://nobody.invalid/", "unknown"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        checked_addresses(target_of(url), allow_private=False)


def test_a_host_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a name with a public and a private address
    found = [(2, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: found)
    # Then
    with pytest.raises(AddressError, match="not a public address"):
        checked_addresses(target_of("http://example.com/"), allow_private=False)
