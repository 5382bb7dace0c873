"""The connections of a deployment."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tasks.deployment import Deployment
from tasks.jobs.connection import connect
from tasks.messaging.celery_app import make_app
from tasks.settings import Settings


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone has TCP_USER_TIMEOUT")
def test_a_connection_that_dies_silently_is_noticed_in_half_a_minute(settings: Settings) -> None:
    # Given a connection of each kind to a server over TCP
    def options(sock: Any) -> tuple[int, ...]:
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        return tuple(sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)

    with (
        connect(settings.redis_url) as client,
        make_app(settings, results=False).connection_for_read() as broker,
    ):
        ours = client.connection_pool.get_connection()
        channel: Any = broker.default_channel
        theirs = channel.client.connection_pool.get_connection()
        # Then its socket has keepalive, and gives up on bytes that nobody acknowledges
        for connection in (ours, theirs):
            assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert options(connection._sock) == (10, 5, 6, 30_000)
        client.connection_pool.release(ours)
        channel.client.connection_pool.release(theirs)


@pytest.mark.parametrize(("lease_s", "timeout_s"), [(0.5, 1.0), (15.0, 5.0), (60.0, 20.0), (3600.0, 30.0)])
def test_one_dead_connection_does_not_cost_a_lease(lease_s: float, timeout_s: float) -> None:
    settings = Settings(lease_s=lease_s)
    assert settings.reply_timeout_s == timeout_s
    with Deployment(settings) as deployment:
        assert deployment.jobs._redis.connection_pool.connection_kwargs["socket_timeout"] == timeout_s
