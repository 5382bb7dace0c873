"""docker-compose.yml: its contents, and a film rendered with every service's command as a local process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import httpx2
import pytest
import redis
import yaml

from blobstore import open_blob_store
from tasks import Settings
from tasks.embedded import processes
from tasks.embedded.servers import find_redis_server
from tests.conftest import ROOT, environment, forked, free_port, wait_until
from tests.e2e.flower_api import get, states, tasks

VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
SERVER_PORT, FLOWER_PORT, HTTP_PORT = 6379, 5555, 8000
SERVERS, WORKERS = ("broker", "blobs"), ("gpu-worker", "cpu-worker")
PASSWORD, KEY = "quay", "a-key-of-this-test"
SECRETS = {"LONGTAKE_FLOWER_PASSWORD": PASSWORD, "LONGTAKE_API_KEYS": KEY}
FRAMES = 25 + (25 - 9) + 25  # the second segment repeats the overlap; the third is a cut


def resolved(value: str, environ: Mapping[str, str]) -> str:
    """`value` with its variables replaced as Compose does; KeyError if the NAME of `${NAME:?why}` is not set."""

    def replace(match: re.Match[str]) -> str:
        name, sign, rest = match.groups()
        if environ.get(name):
            return environ[name]
        if sign == "?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return VARIABLE.sub(replace, value)


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml, by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def test_servers_persist_and_never_evict(services: dict[str, dict[str, Any]]) -> None:
    for name in SERVERS:
        command = services[name]["command"]
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert command[0] == "redis-server"
        assert options["--appendonly"] == "yes"
        assert options["--maxmemory-policy"] == "noeviction"
        assert services[name]["volumes"] == [f"{name}:/data"], "the append-only file must outlive the container"


def test_only_the_gpu_worker_reserves_a_gpu(services: dict[str, dict[str, Any]]) -> None:
    reserving = {name: service["deploy"] for name, service in services.items() if "deploy" in service}
    assert list(reserving) == ["gpu-worker"]
    (device,) = reserving["gpu-worker"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_workers_consume_every_queue_and_have_time_to_finish_a_segment(services: dict[str, dict[str, Any]]) -> None:
    queues = []
    for name in WORKERS:
        command = services[name]["command"]
        queues += [value for option, value in pairwise(command) if option == "--only"]
        assert re.fullmatch(r"[1-9]\d*m", services[name]["stop_grace_period"])
        assert services[name]["stop_signal"] == "SIGTERM"
    assert sorted(queues) == ["clips", "films", "segments"]


def test_flower_has_no_default_password(services: dict[str, dict[str, Any]]) -> None:
    login = services["flower"]["environment"]["FLOWER_BASIC_AUTH"]
    with pytest.raises(KeyError, match="LONGTAKE_FLOWER_PASSWORD: set a password"):
        resolved(login, {})
    assert resolved(login, {"LONGTAKE_FLOWER_PASSWORD": PASSWORD}) == f"longtake:{PASSWORD}"
    assert services["flower"]["ports"] == [f"127.0.0.1:{FLOWER_PORT}:{FLOWER_PORT}"]


def test_the_server_has_no_default_key(services: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(KeyError, match="LONGTAKE_API_KEYS: set a key"):
        resolved(services["server"]["environment"]["LONGTAKE_API_KEYS"], {})
    assert services["server"]["ports"] == [f"127.0.0.1:{HTTP_PORT}:{HTTP_PORT}"]


def test_services_name_existing_images_volumes_and_services(services: dict[str, dict[str, Any]]) -> None:
    declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"]
    for name, service in services.items():
        ours = service["command"][0] in ("longtake", "celery")
        assert service["image"] == ("longtake" if ours else "redis:7"), name
        assert ("build" in service) == ours, name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (ROOT / source).is_dir() if source.startswith(".") else source in declared, volume
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in services[needed], needed


def test_dockerfile_copies_everything_the_build_needs(services: dict[str, dict[str, Any]]) -> None:
    # Given the Dockerfile and pyproject.toml
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # Then every source exists, the build has every file it needs, and models are stored in the volume
    assert [source for source in sources if not (ROOT / source).exists()] == []
    needed = {
        *(name.rstrip("*") for name in package["tool"]["setuptools"]["packages"]["find"]["include"]),
        *package["project"]["license-files"],
        "pyproject.toml",
    }
    assert needed | {package["project"]["readme"], "constraints.txt"} <= set(sources)
    (home,) = [line.removeprefix("ENV LONGTAKE_HOME=") for line in lines if line.startswith("ENV LONGTAKE_HOME=")]
    assert f"models:{home}" in services["gpu-worker"]["volumes"]
    # And specs can name no other folder
    assert services["gpu-worker"]["environment"]["LONGTAKE_MODEL_FOLDERS"] == home
    assert "longtake" in package["project"]["scripts"]


def as_process(name: str, service: dict[str, Any], folder: Path, ports: Mapping[str, int]) -> list[str]:
    """The command of a service, with local ports and a local folder."""
    command = [resolved(word, {}) for word in service["command"]]
    if name in SERVERS:
        local = ["--port", str(ports[name]), "--bind", "127.0.0.1", "--dir", str(folder)]
        return [find_redis_server(), *command[1:], *local]
    if command[0] == "longtake":
        local_options = {"0.0.0.0": "127.0.0.1", str(HTTP_PORT): str(ports.get(name))}
        return forked("tasks.cli", *(local_options.get(word, word) for word in command[1:]))
    local_options = {f"--port={FLOWER_PORT}": f"--port={ports[name]}", "--address=0.0.0.0": "--address=127.0.0.1"}
    assert set(local_options) <= set(command), "Flower must listen on the port that the Compose file publishes"
    return forked(*(local_options.get(word, word) for word in command))


def with_local_servers(value: str, ports: Mapping[str, int]) -> str:
    """The value of an environment variable in the Compose file, with servers replaced by their local ports."""
    value = resolved(value, SECRETS)
    return re.sub(rf"//([\w-]+):{SERVER_PORT}", lambda match: f"//127.0.0.1:{ports[match[1]]}", value)


class Service:
    """A service of the Compose file as a local process."""

    def __init__(self, name: str, service: dict[str, Any], folder: Path, ports: Mapping[str, int], home: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._signal = signal.Signals[service.get("stop_signal", "SIGTERM")]
        data = folder / name
        data.mkdir()
        command = as_process(name, service, data, ports)
        variables = {key: with_local_servers(value, ports) for key, value in service.get("environment", {}).items()}
        inherited = {key: value for key, value in environment(Settings()).items() if not key.startswith("LONGTAKE_")}
        with self._log.open("wb") as log:
            self._process = processes.start(
                command,
                log=log,
                environ=inherited | variables | {"LONGTAKE_HOME": str(home)},
                cwd=data,
            )

    def has_logged(self, words: str) -> bool:
        """Whether its log contains these words; fails if the process has ended."""
        text = self._log.read_text(errors="replace")
        assert self._process.poll() is None, f"{self.name} has ended: {text}"
        return words in text

    def stop(self) -> None:
        processes.stop(self._process, self._signal, timeout_s=60)


@dataclass(frozen=True)
class Deployment:
    """The running services: settings of a client, and the ports of Flower and the server."""

    settings: Settings
    flower: int
    server: int


@pytest.fixture
def deployment(services: dict[str, dict[str, Any]], home: Path, tmp_path: Path) -> Iterator[Deployment]:
    """Every service, started servers first and stopped in reverse order."""
    ports = {name: free_port() for name in [*SERVERS, "flower", "server"]}
    urls = [f"redis://127.0.0.1:{ports[name]}/0" for name in SERVERS]
    with ExitStack() as stack:

        def start(*names: str) -> list[Service]:
            started = []
            for name in names:
                started.append(Service(name, services[name], tmp_path, ports, home))
                stack.callback(started[-1].stop)
            return started

        for server in start(*SERVERS):
            wait_until(lambda server=server: server.has_logged("Ready to accept connections"), what=server.name)
        *workers, web = start(*WORKERS, "server")
        for worker in workers:
            wait_until(lambda worker=worker: worker.has_logged("ready."), what=worker.name)
        wait_until(lambda: web.has_logged("Uvicorn running on"), what="the server")
        with redis.Redis.from_url(urls[0]) as events:
            others = events.pubsub_numpat()
            (flower,) = start("flower")
            wait_until(lambda: flower.has_logged("") and get(ports["flower"], "/healthcheck")[0] == 200, what="Flower")
            # it answers before it has subscribed to events
            wait_until(lambda: events.pubsub_numpat() > others, what="Flower's event receiver")
        yield Deployment(Settings(redis_url=urls[0], blob_url=urls[1], home=home), ports["flower"], ports["server"])


def test_film_through_every_service(
    deployment: Deployment,
    longtake: Callable[..., subprocess.CompletedProcess[str]],
    services: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    # Given every service, and Flower behind its password
    assert {*SERVERS, *WORKERS, "flower", "server"} == set(services)
    settings, login, film = deployment.settings, f"longtake:{PASSWORD}", tmp_path / "film.mp4"
    assert [get(deployment.flower, "/api/tasks", who)[0] for who in ("", "longtake:", login)] == [401, 401, 200]

    # When an example is submitted, and its film saved
    submitted = longtake("submit", ROOT / "examples/harbour.yaml", settings=settings)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    for command in (["watch", job], ["save", job, "-o", film]):
        done = longtake(*command, settings=settings)
        assert done.returncode == 0, done.stderr

    # Then the film has every frame once, and picture and sound end within one frame of each other
    with av.open(str(film)) as opened:
        picture, sound = opened.streams.video[0], opened.streams.audio[0]
        lengths = [stream.duration * stream.time_base for stream in (picture, sound)]
        assert sum(1 for _ in opened.decode(picture)) == FRAMES
    assert lengths[0] == Fraction(FRAMES, 24)
    assert abs(lengths[0] - lengths[1]) <= Fraction(1, 24)

    # And the server shows it to those with the key
    url = f"http://127.0.0.1:{deployment.server}/jobs/{job}"
    assert httpx2.get(url).status_code == 401
    assert httpx2.get(url, headers={"Authorization": f"Bearer {KEY}"}).json()["state"] == "done"

    # And its clips are on the blob server only, each task ran on the right worker, and Flower shows it
    clips = [
        segment["blobs"]["clip"] for segment in json.loads(film.with_suffix(".report.json").read_text())["segments"]
    ]
    broker, blobs = open_blob_store(settings.redis_url), open_blob_store(settings.blobs)
    assert [(clip in broker, clip in blobs) for clip in clips] == [(False, True)] * 3
    workers = {f"harbour at dawn · segment {number} of 3": "gpu" for number in (1, 2, 3)} | {
        "harbour at dawn · film": "cpu"
    }
    success = dict.fromkeys(workers, "SUCCESS")
    wait_until(lambda: states(deployment.flower, login) == success, what="every task's end in Flower")
    shown = tasks(deployment.flower, login)
    assert {args: task["worker"].split("@")[0] for args, task in shown.items()} == workers
