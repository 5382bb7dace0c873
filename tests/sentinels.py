"""A master with a replica and three Redis Sentinels that fail over within seconds."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tasks.embedded import processes
from tasks.embedded.servers import find_redis_server
from tests.conftest import RedisProcess, free_port, wait_until

MASTER_NAME = "films"
SENTINELS = 3
CONFIG = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 3000
"""


@dataclass(frozen=True, slots=True)
class SentinelGroup:
    """The servers of one master name. hosts: the Sentinels, as URLs write them."""

    servers: list[RedisProcess]
    ports: list[int]

    @property
    def hosts(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    @property
    def url(self) -> str:
        return f"sentinel://{','.join(self.hosts)}/0?master_name={MASTER_NAME}"

    @property
    def master(self) -> RedisProcess:
        """The server that the Sentinels name."""
        with redis.Redis(port=self.ports[0]) as sentinel:
            port = int(sentinel.sentinel_get_master_addr_by_name(MASTER_NAME)[1])
        return next(server for server in self.servers if server.port == port)


@contextmanager
def sentinel_group(folder: Path) -> Iterator[SentinelGroup]:
    """Start them, and wait until the Sentinels know each other and the replica."""
    with ExitStack() as stack:
        servers: list[RedisProcess] = []
        for number in range(2):
            (folder / f"server-{number}").mkdir(parents=True)
            options = ["--replicaof", "127.0.0.1", str(servers[0].port)] if servers else []
            servers.append(RedisProcess(folder / f"server-{number}", *options))
            stack.callback(servers[-1].stop)
        group = SentinelGroup(servers, [free_port() for _ in range(SENTINELS)])
        for port in group.ports:
            config = folder / f"sentinel-{port}.conf"
            config.write_text(CONFIG.format(port=port, folder=folder, name=MASTER_NAME, master=servers[0].port))
            with config.with_suffix(".log").open("wb") as log:
                process = processes.start([find_redis_server(), str(config), "--sentinel"], log=log)
            stack.callback(processes.stop, process, signal.SIGKILL)
        for port in group.ports:
            wait_until(lambda port=port: knows_all(port), what="the Sentinels")
        yield group


def knows_all(port: int) -> bool:
    """Whether a Sentinel knows the other ones and the replica."""
    with redis.Redis(port=port) as sentinel:
        try:
            [master] = sentinel.sentinel_masters().values()
        except (redis.RedisError, ValueError):
            return False
        return master["num-other-sentinels"] == SENTINELS - 1 and master["num-slaves"] == 1
