"""The connection to the broker when its link is lost or silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty

import pytest
import redis
from celery import Celery

from tasks.messaging.celery_app import make_app
from tasks.settings import Settings
from tests.conftest import RedisProcess, wait_until
from tests.proxies import Proxy


def test_a_lost_subscription_is_an_error_and_never_blocks(settings: Settings, shared_redis: RedisProcess) -> None:
    # Given a worker's subscription to commands, behind a proxy
    with Proxy(shared_redis.port) as proxy:
        app = make_app(settings.model_copy(update={"redis_url": proxy.url}), results=False)
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            subscription = channel.subclient
            subscription.psubscribe("longtake-test")
            wait_until(lambda: subscription.parse_response(), what="the reply")
            # When nothing has arrived, Then reading returns
            assert channel._receive_one(subscription) is None
            # When the link is lost, Then reading is an error, at which Celery connects again
            proxy.close_connections()
            found: list[BaseException] = []

            def read() -> None:
                try:
                    while True:
                        channel._receive_one(subscription)
                except (redis.ConnectionError, OSError, Empty) as error:
                    found.append(error)

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            reader.join(10)
            assert not reader.is_alive(), "the worker would be deaf"
            assert found
            assert not isinstance(found[0], Empty)


def send_event(app: Celery, number: int) -> None:
    with app.events.default_dispatcher() as events:
        events.send("task-progress", number=number)


def store_result(app: Celery, number: int) -> None:
    app.backend.store_result("id", {"number": number}, "PROGRESS")


@pytest.mark.parametrize("send", [send_event, store_result])
def test_events_and_results_do_not_wait_for_the_broker(
    settings: Settings, shared_redis: RedisProcess, send: Callable[[Celery, int], None]
) -> None:
    with Proxy(shared_redis.port) as proxy, redis.Redis(port=shared_redis.port).pubsub() as listener:
        listener.psubscribe("/0.celeryev/*", "celery-task-meta-*")
        app = make_app(settings.model_copy(update={"redis_url": proxy.url}))
        found: list[bytes] = []

        def arrived(count: int) -> bool:
            message = listener.get_message(ignore_subscribe_messages=True)
            found.extend([message["data"]] if message else [])
            return len(found) >= count

        try:
            # Given a connection from which nothing arrives any more
            send(app, 0)
            wait_until(lambda: arrived(1), what="the first one")
            proxy.cut()
            # When / Then each would take as long as a client waits for a reply, and be sent twice
            for number in range(1, 10):
                send(app, number)
            proxy.heal()
            wait_until(lambda: arrived(10), what="all of them")
        finally:
            app.close()
        assert len(set(found)) == len(found) == 10
