"""Traces of jobs, as a receiver of OTLP gets them from real workers and a real server."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ltx2.extras import install_line
from tasks.cli.command import main
from tasks.client.submit import submit
from tasks.messaging.tracing import is_wanted, not_possible
from tasks.settings import Settings
from tests.conftest import Worker, environment, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server

CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver:
    """A receiver of OTLP over HTTP on a loopback port."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            }
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def of(self, name: str) -> list[Span]:
        """The spans with a name, in order of time."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time_unix_nano)

    def first(self, name: str) -> Span:
        wait_until(lambda: self.of(name), what=f"a span {name}")
        return self.of(name)[0]


def value(span: Span, name: str) -> Any:
    found = next(one.value for one in span.attributes if one.key == f"longtake.{name}")
    return getattr(found, found.WhichOneof("value"))


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def test_a_job_is_one_trace_across_a_worker_that_dies_and_one_that_goes_on(
    receiver: Receiver, settings: Settings, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    # Given a worker that is killed in the second segment, so that the reconciler of another one publishes it again
    job = submit(spec("a", f"wait until {tmp_path / 'go'}", "c"), settings=settings)
    killed = start_worker(settings)
    receiver.first("segment")
    receiver.first("clip")
    killed.stop(signal.SIGKILL)
    (tmp_path / "go").touch()
    # When
    start_worker(settings)
    job.wait()
    root = receiver.first("job")
    # Then all spans are of one trace, below the span of the job
    wait_until(lambda: len(receiver.of("clip")) == 3 and receiver.of("film"))
    assert {span.trace_id for span in receiver.spans} == {root.trace_id}
    assert {span.parent_span_id for span in receiver.spans if span != root} == {root.span_id}
    assert root.parent_span_id == b""
    assert (value(root, "job"), value(root, "state")) == (job.id, "done")
    # And the segments follow each other, by two workers
    segments = receiver.of("segment")
    workers = [value(span, "worker") for span in segments]
    assert [value(span, "segment") for span in segments] == [0, 1, 2]
    assert workers[0] != workers[1] == workers[2]
    assert all(one.end_time_unix_nano <= next_.end_time_unix_nano for one, next_ in itertools.pairwise(segments))
    assert root.start_time_unix_nano <= segments[0].start_time_unix_nano
    # And each links to the span that sent its message; the reconciler has none
    assert [[link.span_id for link in span.links] for span in segments] == [[], [], [segments[1].span_id]]
    assert receiver.services == {"longtake"}
    # When a take makes it run once more, Then its end is exported again
    job.retake(0)
    wait_until(lambda: len(receiver.of("job")) == 2, what="the root, with the new end")
    assert {(end.trace_id, end.span_id) for end in receiver.of("job")} == {(root.trace_id, root.span_id)}


def test_work_that_fails_is_an_error_of_its_span_and_of_its_job(
    receiver: Receiver, settings: Settings, start_worker: Callable[..., Worker]
) -> None:
    # Given / When
    submit(spec("a", "nan"), settings=settings)
    start_worker(settings)
    root = receiver.first("job")
    wait_until(lambda: len(receiver.of("segment")) == 2, what="both segments")
    # Then
    failed = receiver.of("segment")[1]
    assert failed.status.code == root.status.code == Status.STATUS_CODE_ERROR
    assert "NotFiniteError" in failed.status.message
    assert not failed.events  # a traceback has paths of the host
    assert receiver.of("segment")[0].status.code == Status.STATUS_CODE_UNSET


def test_jobs_that_end_in_the_main_process_of_a_worker_have_roots(
    receiver: Receiver, settings: Settings, start_worker: Callable[..., Worker]
) -> None:
    # Given a job whose processes die, and one that is left open
    impatient = settings.model_copy(update={"max_attempts": 1, "open_s": 1.0})
    dies, left = (submit(one, settings=settings) for one in (spec("die"), spec(open=True)))
    # When a worker ends them
    worker = start_worker(impatient)
    wait_until(lambda: len(receiver.of("job")) == 2, what="two roots")
    # Then
    roots = {value(root, "job"): (root.status.code, root.status.message[:16]) for root in receiver.of("job")}
    assert roots == {
        dies.id: (Status.STATUS_CODE_ERROR, "its process died"),
        left.id: (Status.STATUS_CODE_UNSET, ""),
    }
    # And the process that forks children has nothing of OpenTelemetry
    assert "/google/_upb/" not in Path(f"/proc/{worker.process.pid}/maps").read_text()


def test_a_submission_over_http_links_to_the_span_of_its_caller(
    receiver: Receiver, settings: Settings, tmp_path: Path
) -> None:
    server = Server(settings, tmp_path / "server.log")
    try:
        with server.client() as client:
            # When a traced caller submits a job and cancels it
            caller = {"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-01"}
            job = client.post("/jobs", json=spec("a"), headers=caller).json()["id"]
            client.post(f"/jobs/{job}/cancel")
            root, submitted = receiver.first("job"), receiver.first("submit")
    finally:
        server.stop()
    # Then
    assert (submitted.trace_id, submitted.parent_span_id) == (root.trace_id, root.span_id)
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in submitted.links] == [CALLER]
    assert (value(root, "job"), value(root, "state")) == (job, "cancelled")


def test_the_command_that_cancels_a_job_exports_its_root(receiver: Receiver, settings: Settings) -> None:
    # Given
    job = submit(spec("a"), settings=settings)
    # When
    result = CliRunner().invoke(main, ["cancel", job.id], env=environment(settings))
    # Then
    assert result.exit_code == 0
    root = receiver.first("job")
    assert (value(root, "job"), value(root, "state")) == (job.id, "cancelled")


@pytest.mark.parametrize(
    ("environ", "wanted", "problem"),
    [
        ({}, False, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, True, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False, None),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, True, "OTEL_TRACES_EXPORTER is 'zipkin'; it must be otlp or none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            True,
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; it must be http/protobuf",
        ),
    ],
)
def test_the_variables_of_opentelemetry_decide(environ: dict[str, str], wanted: bool, problem: str | None) -> None:
    assert is_wanted(environ) == wanted
    assert (not_possible(environ) if wanted else None) == problem


@pytest.mark.parametrize(
    ("environ", "before", "said"),
    [
        ({}, "", ""),
        (
            {"OTEL_TRACES_EXPORTER": "otlp"},
            "sys.modules['opentelemetry.exporter'] = None; ",
            f"no traces: opentelemetry.exporter.otlp is missing; {install_line('otel')}\n",
        ),
    ],
)
def test_nothing_is_imported_and_all_goes_on_without_traces(environ: dict[str, str], before: str, said: str) -> None:
    # When a process that is not to export, or cannot, works on a job
    code = (
        f"import sys; {before}from tasks.messaging.tracing import tracing\n"
        "tracing.start()\n"
        "with tracing.span('j', 'segment'):\n"
        "    print(tracing.headers('j'), 'tasks.messaging.spans' in sys.modules)\n"
        "tracing.stop()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    # Then
    assert (done.stdout, done.stderr) == ("{} False\n", said)
