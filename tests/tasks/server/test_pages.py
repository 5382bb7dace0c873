"""The pages in a real browser: submit a film, watch it while it renders, steer it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conftest import Worker, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.browser import Page
from tests.tasks.server.conftest import KEY, Server
from tests.tasks.server.exchanges import finished, submitted

SPEC = """title: a film <b>& more</b>
width: 64
height: 32
frames: 17
segments:
  - {prompt: a, seed: 1}
  - {prompt: b}
  - {prompt: c}
"""


@pytest.fixture(scope="module")
def page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """It ends before the server, which would wait for its connections."""
    page = Page(tmp_path_factory.mktemp("chromium"))
    yield page
    page.close()


def log_in(page: Page, server: Server) -> None:
    page.open(f"{server.url}/login")
    page.value(f"document.querySelector('input').value = '{KEY}'")
    page.value("document.querySelector('button').click()")
    page.until("location.pathname == '/' && document.readyState == 'complete'")


def test_a_film_is_submitted_and_watched_to_its_end(page: Page, server: Server, worker: Worker) -> None:
    # Given somebody who gave a key
    log_in(page, server)
    # When they check a spec with an error, and submit a right one
    page.open(f"{server.url}/new")
    page.value("document.querySelector('textarea').value = 'width: 33'")
    page.value("document.querySelector('button[value=check]').click()")
    assert "segments: missing" in page.until("document.querySelector('.problem')?.textContent")
    page.value(f"document.querySelector('textarea').value = {SPEC!r}")
    page.value("document.querySelector('button[value=submit]').click()")
    page.until("location.pathname.startsWith('/films/')")
    # Then the player advances while the film renders, and plays to its end
    page.until("document.querySelector('video')?.currentTime > 0")
    page.until("document.querySelector('video').ended")
    assert page.value("document.querySelector('video').error") is None
    assert page.value("document.querySelector('video').duration") == pytest.approx(33 / 24, abs=0.03)
    # And the page tells what became of it, without being loaded again
    page.until("document.querySelector('[data-live] .state').textContent == 'done'")
    assert page.value("document.querySelectorAll('tbody img').length") == 6
    page.until("[...document.images].every((image) => image.loading == 'lazy' || image.complete)")
    page.until("document.querySelector('button[value=new]') !== null")  # a new film may begin with this one
    assert "done" in page.value("document.querySelector('.events').textContent")
    assert page.value("document.querySelector('h1').textContent") == "a film <b>& more</b>"
    assert page.errors == []


def test_a_job_is_paused_and_cancelled_on_its_page(
    page: Page, server: Server, client: httpx2.Client, tmp_path: Path
) -> None:
    # Given
    log_in(page, server)
    job_id = submitted(client, spec(f"wait until {tmp_path / 'never'}"))
    # Given that its events are refused for a while, as when Redis is out
    with page.refusing("*/events"):
        page.open(f"{server.url}/films/{job_id}")
        wait_until(lambda: page.value("1") and page.errors, what="a refusal")
    page.errors.clear()
    # When it is resumed elsewhere later, Then the page knows
    client.post(f"/jobs/{job_id}/pause")
    page.until("document.querySelector('.state')?.textContent.startsWith('paused')")
    client.post(f"/jobs/{job_id}/resume")
    page.until("document.querySelector('button[value=pause]') !== null")
    # When
    page.value("document.querySelector('button[value=pause]').click()")
    # Then
    page.until("document.querySelector('.state')?.textContent.startsWith('paused')")
    page.value("document.querySelector('button[value=cancel]').click()")
    page.until("document.querySelector('.state')?.textContent == 'cancelled'")
    assert client.get(f"/jobs/{job_id}").json()["state"] == "cancelled"
    assert page.errors == []


def test_a_page_says_which_segment_failed_and_why(client: httpx2.Client, worker: Worker) -> None:
    job_id = submitted(client, spec("a", "fail"))
    assert finished(client, job_id)["failed_segment"] == 1
    page = client.get(f"/films/{job_id}").text
    assert "failed</span> at segment 1 · RuntimeError: the prompt requests a failure" in page


def test_a_page_says_that_its_film_was_deleted(
    page: Page, server: Server, client: httpx2.Client, tmp_path: Path
) -> None:
    # Given somebody who waits for a film
    log_in(page, server)
    job_id = submitted(client, spec(f"wait until {tmp_path / 'never'}"))
    page.open(f"{server.url}/films/{job_id}")
    page.until("document.querySelector('.events').textContent.includes('accepted')")
    # When somebody else deletes it
    client.delete(f"/v1/videos/{job_id}")
    # Then the page says so, and no script fails
    page.until("document.querySelector('[data-live]').textContent == 'This film was deleted.'")
    page.until("document.querySelector('[data-player]').textContent == 'Nothing was rendered'")
    assert all("status of 404" in error for error in page.errors)
    # And whoever opens it later is told so by a page
    page.open(f"{server.url}/films/{job_id}")
    page.until(f"document.querySelector('[role=alert]')?.textContent == 'there is no job {job_id}'")
    page.errors.clear()


def test_a_finished_film_is_listed_and_played(
    page: Page, server: Server, client: httpx2.Client, worker: Worker
) -> None:
    # Given
    log_in(page, server)
    job_id = submitted(client, spec("a", "b"))
    finished(client, job_id)
    # When
    page.open(f"{server.url}/")
    # Then each film is a link with its picture and length, which screen readers can name
    assert page.value(f"document.querySelector('a[href=\"/films/{job_id}\"]').textContent") == "harbour at dawn"
    assert page.value("document.querySelector('.jobs img').alt") == "First picture of harbour at dawn"
    page.until("document.querySelector('.jobs img').naturalWidth > 0")
    assert page.value("document.querySelector('.jobs .done progress') === null")
    # And the film can be searched
    page.open(f"{server.url}/films/{job_id}")
    page.until("document.querySelector('video').readyState > 0")
    assert page.value("document.querySelector('video').poster").startswith(f"{server.url}/films/{job_id}/0.webp")
    assert page.value("document.querySelector('video').clientWidth <= 3 * document.querySelector('video').videoWidth")
    # And its events are told in words, with the name of the worker
    log = "document.querySelector('.events').textContent"
    said = page.until(f"{log}.includes('done') && {log}")
    (name,) = page.value("Object.values(JSON.parse(document.querySelector('.events').dataset.workers))")
    assert f"segment 0, worker {name}" in said
    assert page.value(f"{log}.includes('rendered: segment 0')")
    page.value("document.querySelector('video').currentTime = 0.5")
    page.until("!document.querySelector('video').seeking && document.querySelector('video').readyState >= 2")
    assert page.errors == []


def test_a_segment_is_retaken_and_a_take_chosen_on_the_page(
    page: Page, server: Server, client: httpx2.Client, worker: Worker, tmp_path: Path
) -> None:
    # Given a film that is done
    go = tmp_path / "go"
    log_in(page, server)
    job_id = submitted(client, spec("a", "b", frames=25))
    finished(client, job_id)
    page.open(f"{server.url}/films/{job_id}")
    # When somebody opens the form of a segment with the keyboard, and asks for a take that cannot be
    retake = "document.querySelector('form[aria-label=\"Retake segment 0\"]')"
    page.value("document.querySelector('summary[aria-label=\"Retake segment 0\"]').focus()")
    page.press("Enter")
    page.until("document.querySelector('#retake-0').open")
    assert page.value(f"{retake}.querySelector('textarea').labels[0].textContent") == "Prompt"
    assert page.value(f"{retake}.querySelector('textarea').value") == "a"
    page.value(f"{retake}.querySelector('textarea').value = ' '")
    page.value(f"{retake}.querySelector('button').click()")
    # Then the page says so
    assert "prompt: must not be blank" in page.until("document.querySelector('.problem')?.textContent")
    # and follows the film, although its own address is now that of the form
    page.value("document.querySelector('[data-live] progress').dataset.old = 'yes'")
    page.until("document.querySelector('[data-live] progress').dataset.old != 'yes'")
    # When they give a prompt and a seed, and the segment after it is to be part of the take
    page.value(f"{retake}.querySelector('textarea').value = 'wait until {go}'")
    page.value(f"{retake}.querySelector('input').value = '5'")
    assert page.value(f"{retake}.querySelector('[name=last]').labels[0].textContent") == "Up to segment, as one take"
    page.value(f"{retake}.querySelector('[name=last]').value = '1'")
    page.value(f"{retake}.querySelector('button').click()")
    # Then the page follows it without being loaded again, and the take can be chosen
    page.until("document.querySelector('.takes')?.textContent.includes('Take 1 of segments 0 to 1, seed 5: due')")
    page.value("document.querySelector('.takes').dataset.old = 'yes'")
    page.until("!document.querySelector('.takes').dataset.old")
    go.touch()
    choose = "document.querySelector('button[aria-label=\"Choose take 1 of segments 0 to 1\"]')"
    page.until(f"{choose} && document.querySelector('.state').textContent == 'done'")
    assert "Take 1 of segments 0 to 1, seed 5: rendered" in page.value("document.querySelector('.takes').textContent")
    page.value(f"{choose}.click()")
    page.until(f"!{choose} && document.querySelector('.state')?.textContent == 'done'")
    assert "Take 1 of segments 0 to 1, seed 5: shown" in page.value("document.querySelector('.takes').textContent")
    assert [one["take"] for one in client.get(f"/jobs/{job_id}/summary").json()["segments"]] == [1, 1]
    assert [text for text in page.errors if "400" not in text] == []
    page.errors.clear()


def test_a_film_is_gone_on_with_on_a_phone_and_with_the_keyboard(
    page: Page, server: Server, client: httpx2.Client, worker: Worker
) -> None:
    # Given a film that is done, on a phone
    log_in(page, server)
    page.resize(390, 844)
    job_id = submitted(client, spec("a", "b"))
    finished(client, job_id)
    # Then no page is wider than the screen
    for path in ("/", "/new", "/docs", f"/films/{job_id}"):
        page.open(f"{server.url}{path}")
        assert page.value("document.documentElement.scrollWidth <= innerWidth"), path
    # And the row of a segment says how it joins the one before
    page.value("document.querySelector('[data-join]').scrollIntoView()")
    page.until("document.querySelector('[data-join]').textContent.includes('inside up to')")
    # When somebody without a mouse adds segments
    page.tab_to("document.querySelector('#append summary')")
    page.press("Enter")
    page.tab_to("document.querySelector('#prompts')")
    page.type("c\nd")
    page.tab_to("document.querySelector('#append button[value=this]')")
    page.press("Enter")
    # Then the film goes on with them
    page.until("document.querySelectorAll('tbody tr').length == 4")
    assert finished(client, job_id)["segments"] == 4
    # When they make another film that begins with it, with a new scene
    page.open(f"{server.url}/films/{job_id}")
    page.value("document.querySelector('#append').open = true")
    page.value("document.querySelector('#prompts').value = 'e'")
    page.value("document.querySelector('#transition').value = 'cut'")
    page.value("document.querySelector('#append button[value=new]').click()")
    # Then it is a job of its own
    page.until(f"document.readyState == 'complete' && location.pathname != '/films/{job_id}'")
    assert page.value("document.querySelector('.problem')?.textContent") is None
    made = page.value("location.pathname").removeprefix("/films/")
    assert finished(client, made)["segments"] == 5
    assert client.get(f"/jobs/{made}/segments/4/join").json()["cut"]
    assert page.errors == []
    page.call("Emulation.clearDeviceMetricsOverride")


def test_pages_are_for_people_with_a_key_and_for_this_site(server: Server) -> None:
    html = {"Accept": "text/html"}
    # Given nobody, Then every page leads to the question for the key
    assert httpx2.get(f"{server.url}/", headers=html).headers["location"] == "/login"
    refused = httpx2.post(f"{server.url}/login", data={"key": "wrong-key-of-nobody"})
    assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
    # Given somebody with a cookie, When another site sends a request, Then it is refused
    accepted = httpx2.post(f"{server.url}/login", data={"key": KEY})
    cookie = accepted.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    headers = {"Cookie": f"longtake_key={KEY}"}
    for origin in ("https://example.com", "null", "http://["):
        headers["Origin"] = origin
        assert httpx2.post(f"{server.url}/jobs", json=spec("a"), headers=headers).status_code == 403
    # And cookies of other programs on this host do not hide theirs, nor does that of a server at another prefix
    others = {"Cookie": f"a[0]={{}}; =; longtake_key={KEY}; longtake_key=of-another-server", **html}
    assert httpx2.get(f"{server.url}/", headers=others).status_code == 200
    # And no page may be shown inside of another one, or run scripts that are not ours
    policy = httpx2.get(f"{server.url}/login").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self'" in policy


def test_a_server_without_keys_is_for_this_machine(server: Server, tmp_path: Path) -> None:
    # Given a server without keys
    open_server = Server(server.settings.model_copy(update={"api_keys": None}), tmp_path / "server.log")
    try:
        # Then requests that name another host, as a page of another site can make them, are refused
        assert httpx2.get(f"{open_server.url}/jobs").status_code == 200
        for host in ("rebound.example.com", "["):
            refused = httpx2.get(f"{open_server.url}/jobs", headers={"Host": host})
            assert refused.status_code == 403
    finally:
        open_server.stop()
