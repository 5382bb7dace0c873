"""Celery's remote control: what `celery` and Flower send works, and nothing else reaches a worker."""

from __future__ import annotations

import inspect
import json
import math
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.worker.control import Panel
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import MessageError
from tasks.jobs.queues import FILMS, SEGMENTS
from tasks.messaging import message_filter
from tasks.messaging.celery_app import make_app
from tasks.messaging.remote_control import METHODS
from tasks.messaging.schema import check_entry
from tasks.messaging.topology import FILM_TASK
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, wait_until
from tests.tasks.messaging.conftest import REFUSAL_WORKER
from tests.tasks.messaging.wire import broadcast

CHANNEL = "/0.celery.pidbox"
HEADERS = {"clock": 1, "expires": 0}
HUGE = 10**400
# Every argument of every method, with a value that it may have.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "active": {"safe": True},
    "add_consumer": {"queue": FILMS, "exchange": None, "exchange_type": "direct", "routing_key": None},
    "autoscale": {"max": 2, "min": 1},
    "cancel_consumer": {"queue": FILMS},
    "conf": {"with_defaults": False},
    "hello": {"from_node": "other@host", "revoked": ["a"]},
    "memdump": {"samples": 10},
    "pool_grow": {"n": 1},
    "pool_restart": {"modules": None, "reload": False, "reloader": None},
    "pool_shrink": {"n": 1},
    "query_task": {"ids": ["a"]},
    "rate_limit": {"task_name": FILM_TASK, "rate_limit": "10/m"},
    "registered": {"taskinfoitems": ["rate_limit"], "builtins": False},
    "revoke": {"task_id": ["a"], "terminate": False, "signal": "SIGTERM"},
    "terminate": {"task_id": ["a"], "signal": "SIGTERM"},
    "time_limit": {"task_name": FILM_TASK, "soft": 1.0, "hard": 2.0},
}
EVERY_CASE = [(method, name) for method, arguments in ARGUMENTS.items() for name in arguments]
WRONG = [-1, 0.5, HUGE, 1e300, math.nan, math.inf, "\n", "\ud800", "x" * 1000, [7], [[]], {"a": []}, [None], {}]
Send = Callable[[bytes], None]
Start = Callable[..., Worker]


def entry(method: Any, arguments: Any, **body: Any) -> bytes:
    """A command as Celery broadcasts it."""
    command = {"method": method, "arguments": arguments, "destination": None, "pattern": None, "matcher": None}
    return json.dumps(broadcast(command | body, "celery.pidbox", headers=HEADERS)).encode()


@pytest.fixture
def send(server: RedisProcess) -> Iterator[Send]:
    """Broadcast an entry to the worker."""
    with redis.Redis(port=server.port) as client:

        def send(data: bytes) -> None:
            assert client.publish(CHANNEL, data) == 1

        yield send


@pytest.fixture
def app(module_settings: Settings, worker: Worker) -> Iterator[Celery]:
    with make_app(module_settings) as app:
        yield app


def answers(app: Celery) -> bool:
    return [list(reply.values()) for reply in app.control.ping(timeout=60, limit=1)] == [[{"ok": "pong"}]]


def is_wrong(method: str, name: str, value: Any) -> bool:
    """Whether no argument of this name may be `value`; the few that may are numbers and empty lists."""
    allowed = {
        ("time_limit", "soft"): (0.5,),
        ("time_limit", "hard"): (0.5,),
        ("rate_limit", "rate_limit"): (0.5,),
        ("hello", "revoked"): ({},),
    }
    return value not in allowed.get((method, name), ())


def test_every_method_takes_the_arguments_that_celery_sends() -> None:
    for method in METHODS:
        arguments = ARGUMENTS.get(method, {})
        # When / Then they pass, and Celery's own function takes them
        check_entry(entry(method, arguments), CHANNEL)
        inspect.signature(Panel.data[method]).bind("state", **arguments)
    assert set(ARGUMENTS) == {method for method, taken in METHODS.items() if taken.model_fields}


@pytest.mark.parametrize(("method", "name"), EVERY_CASE)
def test_an_argument_of_another_type_is_refused(method: str, name: str) -> None:
    for value in [value for value in WRONG if is_wrong(method, name, value)]:
        with pytest.raises(MessageError, match=rf"^{method}\.{name}: "):
            check_entry(entry(method, ARGUMENTS[method] | {name: value}), CHANNEL)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("add_consumer", {"queue": FILMS, "exchange": True}),
        ("add_consumer", {"queue": "evil"}),
        ("add_consumer", {"queue": FILMS, "exchange_type": "fanout"}),
        ("add_consumer", {}),
        ("pool_grow", {"n": True}),
        ("pool_grow", {"n": 1000}),
        ("pool_restart", {"modules": ["os"], "reload": True}),
        ("query_task", {"ids": [f"{i}" for i in range(1001)]}),
        ("registered", {"taskinfoitems": ["__class__"]}),
        ("revoke", {"task_id": "a", "signal": "SIGSTOP"}),
        ("revoke", {"task_id": "a", "signal": 9}),
        ("revoke", {"task_id": "a", "terminate": 1}),
        ("rate_limit", {"task_name": "celery.chain", "rate_limit": "1/s"}),
        ("rate_limit", {"task_name": FILM_TASK, "rate_limit": "1/x"}),
        ("rate_limit", {"task_name": FILM_TASK, "rate_limit": "nan"}),
        ("time_limit", {"soft": 1.0}),
        ("ping", {"self": 1}),
        ("shutdown", {"msg": "x"}),
        ("ping", []),
        ("ping", None),
        ("election", {"id": "a", "topic": "b"}),
        ("objgraph", {}),
        ("revoke_by_stamped_headers", {"headers": {"a": "b"}}),
        ("__class__", {}),
        ("evil", {}),
        ([], {}),
        ({}, {}),
        (None, {}),
        (True, {}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_unknown_method_or_a_harmful_argument_is_refused(method: Any, arguments: Any) -> None:
    with pytest.raises(MessageError):
        check_entry(entry(method, arguments), CHANNEL)


@pytest.mark.parametrize(
    "fields",
    [
        {"self": 1},
        {"destination": "all"},
        {"destination": [[]]},
        {"destination": {"a": 1}},
        {"pattern": "*", "matcher": "glob"},
        {"pattern": "(", "matcher": "pcre"},
        {"ticket": []},
        {"ticket": True},
        {"reply_to": []},
        {"reply_to": {"exchange": "", "routing_key": SEGMENTS}},
        {"reply_to": {"exchange": "celery.pidbox", "routing_key": "a"}},
        {"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": [1]}},
        {"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "a", "x": 1}},
    ],
    ids=repr,
)
def test_other_fields_of_a_command_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(MessageError, match=r"^body\."):
        check_entry(entry("ping", {}, **fields), CHANNEL)


@pytest.mark.parametrize("headers", [{"clock": True}, {"clock": HUGE}, {"expires": math.nan}, {"compression": "zlib"}])
def test_headers_that_celery_acts_on_are_checked(headers: dict[str, Any]) -> None:
    for body, channel in (({"method": "ping", "arguments": {}}, CHANNEL), ({"a@b": "pong"}, "x.reply.celery.pidbox")):
        with pytest.raises(MessageError, match=r"^headers\."):
            check_entry(json.dumps(broadcast(body, "celery.pidbox", headers=headers)).encode(), channel)


@pytest.mark.parametrize("body", [[], "pong", 7, None, True])
def test_a_reply_that_is_no_mapping_is_refused(body: Any) -> None:
    with pytest.raises(MessageError, match=r"^body: must be a mapping"):
        check_entry(json.dumps(broadcast(body, "", headers=HEADERS)).encode(), "x.reply.celery.pidbox")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(HUGE)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))
NAMES = sorted({name for _, name in EVERY_CASE})
COMMANDS = st.tuples(
    st.sampled_from(sorted(Panel.data)) | VALUES,
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), VALUES, max_size=4) | VALUES,
    st.dictionaries(st.sampled_from(["destination", "pattern", "matcher", "reply_to", "ticket", "x"]), VALUES),
)


@given(COMMANDS)
def test_whatever_passes_is_a_call_that_celery_can_make(command: tuple[Any, Any, dict[str, Any]]) -> None:
    method, arguments, fields = command
    try:
        check_entry(entry(method, arguments, **fields), CHANNEL)
    except MessageError:
        return
    assert method in METHODS
    inspect.signature(Panel.data[method]).bind("state", **arguments)


def test_a_worker_survives_every_wrong_argument(worker: Worker, app: Celery, send: Send) -> None:
    # Given every argument of every method with every value that the filter refuses
    cases = [entry(m, ARGUMENTS[m] | {name: value}) for m, name in EVERY_CASE for value in [*WRONG, True, None]]
    hostile = [data for data in cases if not passes(data)]
    assert len(hostile) > 400
    already = worker.text().count(" is refused: ")
    # When
    for data in hostile:
        send(data)
    # Then each is one log line, and the worker answers
    assert answers(app)
    assert worker.process.poll() is None
    lines = worker.text()
    assert lines.count(" is refused: ") - already == len(hostile)
    assert "Traceback" not in lines


def passes(data: bytes) -> bool:
    try:
        check_entry(data, CHANNEL)
    except MessageError:
        return False
    return True


def test_what_celery_and_flower_send_still_works(worker: Worker, app: Celery) -> None:
    control, inspected = app.control, app.control.inspect(timeout=60, limit=1)
    # Given what `celery inspect` and Flower's pages ask, When it is sent, Then the worker answers
    for ask in ("stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf", "clock"):
        assert getattr(inspected, ask)(), ask
    assert inspected.query_task("a", "b")
    # And what `celery control` and Flower's buttons change
    replies: list[Any] = []
    options: dict[str, Any] = {"reply": True, "timeout": 60, "limit": 1}
    replies += control.rate_limit(FILM_TASK, "100/m", **options) + control.rate_limit(FILM_TASK, 0, **options)
    replies += control.time_limit(FILM_TASK, soft=60.0, hard=90.0, **options)
    replies += control.time_limit(FILM_TASK, **options)
    replies += control.pool_grow(1, **options) + control.pool_shrink(1, **options)
    replies += control.cancel_consumer(FILMS, **options) + control.add_consumer(FILMS, **options)
    replies += control.revoke(str(uuid.uuid4()), terminate=True, signal="SIGKILL", **options)
    replies += control.enable_events(**options) + control.disable_events(**options) + control.enable_events(**options)
    assert [next(iter(answer)) for reply in replies for answer in reply.values()] == ["ok"] * 12
    assert answers(app)


def test_a_flood_of_junk_is_ten_lines_and_a_count(
    own_settings: Settings, own_server: RedisProcess, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    shown = message_filter.SHOWN_PER_MINUTE
    monkeypatch.setenv("REFUSALS_SHOWN", str(shown))
    worker = start_worker(own_settings, program=REFUSAL_WORKER).ready()

    def counts() -> list[int]:
        return [int(count) for count in re.findall(r"(\d+) more messages were refused", worker.text())]

    for sent in (1500, 3000):
        # When
        with redis.Redis(port=own_server.port) as client:
            client.lpush(SEGMENTS, *[b"junk"] * 1500)
        # Then
        wait_until(lambda expected=sent - shown: sum(counts()) == expected, what="the count of the rest")
    assert worker.text().count("is refused") == shown
    assert len(counts()) < 300  # one a second, and a busy machine takes many seconds for 3,000 messages
