"""A master with a replica and three Redis Sentinels that fail over within seconds, also with TLS and passwords."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import trustme

from tasks.embedded import processes
from tasks.embedded.servers import find_redis_server
from tests.conftest import RedisProcess, free_port, wait_until

MASTER_NAME = "films"
SENTINELS = 3
PASSWORD, SENTINEL_PASSWORD = "quay/50%:@", "pier&7#"
CONFIG = """
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 3000
"""


@dataclass(frozen=True, slots=True)
class SentinelGroup:
    """The servers of one master name. ports: the Sentinels. folder: with ca.pem if they use TLS and passwords.

    known_ports: those of the servers, as Sentinels know them.
    """

    servers: list[RedisProcess]
    known_ports: list[int]
    ports: list[int]
    folder: Path
    secure: bool

    @property
    def hosts(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    @property
    def scheme(self) -> str:
        return "sentinels" if self.secure else "sentinel"

    @property
    def login(self) -> str:
        return f":{quote(PASSWORD, safe='')}@" if self.secure else ""

    @property
    def options(self) -> str:
        """The options of the URL."""
        secrets = f"&sentinel_password={quote(SENTINEL_PASSWORD)}&ssl_ca_certs={self.folder / 'ca.pem'}"
        return f"master_name={MASTER_NAME}{secrets if self.secure else ''}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.login}{','.join(self.hosts)}/0?{self.options}"

    @property
    def master(self) -> RedisProcess:
        """The server that the Sentinels name."""
        with self.sentinel(self.ports[0]) as sentinel:
            port = int(sentinel.sentinel_get_master_addr_by_name(MASTER_NAME)[1])
        return self.servers[self.known_ports.index(port)]

    def client(self) -> redis.Redis:
        """A client of the master, on the port that needs no TLS."""
        return redis.Redis(port=self.master.port, password=PASSWORD if self.secure else None)

    def sentinel(self, port: int) -> redis.Redis:
        """A client of one Sentinel."""
        tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(self.folder / "ca.pem"), "password": SENTINEL_PASSWORD}
        return redis.Redis(host="127.0.0.1", port=port, **(tls if self.secure else {}))

    def knows_all(self, port: int) -> bool:
        """Whether a Sentinel knows the other ones and the replica."""
        with self.sentinel(port) as sentinel:
            try:
                [master] = sentinel.sentinel_masters().values()
            except (redis.RedisError, ValueError):
                return False
            return master["num-other-sentinels"] == SENTINELS - 1 and master["num-slaves"] == 1


@contextmanager
def sentinel_group(folder: Path, *, secure: bool = False) -> Iterator[SentinelGroup]:
    """Start them, and wait until the Sentinels know each other and the replica. secure: with TLS and passwords."""
    executable = Path(find_redis_server())
    if secure and b"tls-cert-file" not in executable.read_bytes():
        pytest.skip("this redis-server has no TLS: install Debian's `redis-server` to test Sentinel with TLS")
    shared = write_certificate(folder) if secure else ()
    with ExitStack() as stack:
        servers: list[RedisProcess] = []
        known_ports: list[int] = []
        for number in range(2):
            (folder / f"server-{number}").mkdir(parents=True)
            options = ["--replicaof", "127.0.0.1", str(known_ports[0])] if servers else []
            tls_port = free_port()
            if secure:
                options += ["--tls-port", str(tls_port), "--requirepass", PASSWORD, "--masterauth", PASSWORD]
                options += [word for name, value in shared for word in (f"--{name}", value)]
            servers.append(RedisProcess(folder / f"server-{number}", *options))
            known_ports.append(tls_port if secure else servers[-1].port)
            stack.callback(servers[-1].stop)
        group = SentinelGroup(servers, known_ports, [free_port() for _ in range(SENTINELS)], folder, secure)
        for port in group.ports:
            config = folder / f"sentinel-{port}.conf"
            lines = [CONFIG.format(folder=folder, name=MASTER_NAME, master=known_ports[0])]
            lines += [f"{name} {value}" for name, value in shared]
            if secure:
                lines += ["port 0", f"tls-port {port}", f'requirepass "{SENTINEL_PASSWORD}"']
                lines += [f'sentinel auth-pass {MASTER_NAME} "{PASSWORD}"']
            else:
                lines += [f"port {port}"]
            config.write_text("\n".join(lines) + "\n")
            with config.with_suffix(".log").open("wb") as log:
                process = processes.start([str(executable), str(config), "--sentinel"], log=log)
            stack.callback(processes.stop, process, signal.SIGKILL)
        for port in group.ports:
            wait_until(lambda port=port: group.knows_all(port), what="the Sentinels")
        yield group


def write_certificate(folder: Path) -> tuple[tuple[str, str], ...]:
    """Write a certificate for all of them, and its authority; returns the settings of Redis that name it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    files = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "ca.pem"}
    paths = tuple((name, str(folder / file)) for name, file in files.items())
    return (*paths, ("tls-auth-clients", "no"), ("tls-replication", "yes"))
