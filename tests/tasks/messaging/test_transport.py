"""The connection to the broker when its link is lost."""

from __future__ import annotations

import threading
from queue import Empty

import redis

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
