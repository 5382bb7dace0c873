"""The server under a path prefix, behind a real nginx."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import pytest

from tasks.embedded import processes
from tasks.errors import ConfigError
from tasks.server.app import make_app
from tasks.server.http.proxies import proxies_in
from tasks.settings import Settings
from tests.conftest import Worker, free_port, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import KEY, Server

LINK = re.compile(r'(?:href|src|action|data-[a-z]+)="(/[^"]*)"')
NOT_FOLLOWED = re.compile("/events$|/join")  # the former do not end, the latter cost seconds
BELIEVED = "127.0.0.3"
# One passes the path on as it is and is believed; the other takes the prefix off, and is not.
CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_http_version 1.1;
  server {{
    listen 127.0.0.1:{whole};
    location /longtake/ {{
      proxy_pass http://127.0.0.1:{server};
      proxy_bind {believed};
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Proto https;
    }}
  }}
  server {{
    listen 127.0.0.1:{stripped};
    location /longtake/ {{
      proxy_pass http://127.0.0.1:{server}/;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Host evil.example;
      proxy_set_header X-Forwarded-Proto https;
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def settings(settings: Settings) -> Settings:
    return replace_settings(settings, root_path="/longtake/", forwarded_allow_ips=BELIEVED)


def replace_settings(settings: Settings, **changes: object) -> Settings:
    return Settings.model_validate(settings.model_dump() | changes)


@pytest.fixture(scope="module")
def proxies(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The addresses of the server at both proxies."""
    found = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if found is None:
        pytest.skip("no nginx found: install Debian's `nginx-light` to test the server behind a proxy")
    folder = tmp_path_factory.mktemp("nginx")
    whole, stripped = free_port(), free_port()
    text = CONFIG.format(folder=folder, whole=whole, stripped=stripped, server=server.port, believed=BELIEVED)
    (folder / "nginx.conf").write_text(text)
    with (folder / "nginx.log").open("ab") as log:
        process = processes.start([found, "-c", str(folder / "nginx.conf"), "-p", str(folder)], log=log)
    urls = [f"http://127.0.0.1:{port}/longtake" for port in (whole, stripped)]
    wait_until(lambda: all(answers(url) for url in urls), what="nginx")
    yield urls
    processes.stop(process, 15)


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("is_believed", [True, False])
def test_everything_is_under_the_prefix(proxies: list[str], worker: Worker, tmp_path: Path, is_believed: bool) -> None:
    proxy = proxies[0 if is_believed else 1]
    own = {"Origin": proxy.removesuffix("/longtake"), "Accept": "text/html"}
    # A browser without a key is sent to the login, and its cookie is for the server alone
    with httpx2.Client(timeout=60) as browser:
        refused = browser.get(f"{proxy}/", headers=own)
        assert (refused.status_code, refused.headers["Location"]) == (303, "/longtake/login")
        entered = browser.post(f"{proxy}/login", data={"key": KEY}, headers=own)
        assert (entered.status_code, entered.headers["Location"]) == (303, "/longtake/")
        assert "Path=/longtake;" in entered.headers["Set-Cookie"]
        # of what the proxies say, that of the one that is believed counts
        assert ("Secure" in entered.headers["Set-Cookie"]) == is_believed
    with httpx2.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        # A job is where the answer says, and its events come at once, while it renders
        gate = tmp_path / "gate"
        submitted = client.post(f"{proxy}/jobs", json=spec("a", f"wait until {gate}"))
        place = urljoin(proxy, submitted.headers["Location"])
        assert place == f"{proxy}/jobs/{submitted.json()['id']}"
        with client.stream("GET", f"{place}/events") as events:
            kinds = (line.removeprefix("event: ") for line in events.iter_lines() if line.startswith("event: "))
            assert "clip" in kinds
            # It plays meanwhile, by both lists of its pieces
            listed = client.get(f"{place}/live").json()
            playlist = client.get(f"{place}/live.m3u8")
            kept = urljoin(place, playlist.headers["Content-Location"])
            named = [line for line in client.get(kept).text.splitlines() if not line.startswith("#")]
            assert [urljoin(kept, line) for line in named] == [urljoin(place, piece) for piece in listed["pieces"]]
            part = client.get(urljoin(place, listed["pieces"][0]), headers={"Range": "bytes=4-7"})
            assert (part.status_code, part.content) == (206, b"moof")
            # and no link of its pages leads out of the prefix, or to nowhere
            pages = [client.get(proxy + page).text for page in ("/", "/new", "/docs")]
            links = set(LINK.findall("".join([*pages, client.get(place.replace("/jobs/", "/films/")).text])))
            assert all(link.startswith("/longtake/") for link in links), links
            followed = [link for link in links if is_believed and not NOT_FOLLOWED.search(link)]
            assert {client.get(urljoin(proxy, link)).status_code for link in followed} <= {200, 405}
            gate.touch()
            assert "done" in kinds
        # Forms come back to the page, and the document for programs names the prefix
        film = place.replace("/jobs/", "/films/")
        again = client.post(f"{film}/append", data={"prompts": "b"}, headers=own)
        assert again.headers.get("Location") == film.removeprefix(proxy.removesuffix("/longtake")), again.text
        assert client.get(f"{proxy}/openapi.json").json()["servers"] == [{"url": "/longtake"}]
        # A slash too much leads to the address of the proxy, by the scheme that it names if it is believed
        moved = client.get(f"{proxy}/jobs/")
        expected = f"{proxy}/jobs".replace("http:", "https:" if is_believed else "http:")
        assert (moved.status_code, moved.headers["Location"]) == (307, expected)


def test_a_star_among_proxies_believes_all(settings: Settings) -> None:
    assert proxies_in(replace_settings(settings, forwarded_allow_ips="10.0.0.0/8, *")) == ["*"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"root_path": "/jobs/x"}, "begins like a path of the server"),
        ({"forwarded_allow_ips": "127.0.0.1, proxy"}, "'proxy' is not an IP address"),
    ],
)
def test_a_prefix_or_a_proxy_that_cannot_be_is_refused(settings: Settings, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_app(replace_settings(settings, **changes))
