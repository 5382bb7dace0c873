"""Imports run downwards: tasks on ltx2 on blobstore. What is heavy is imported where it is needed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("blobstore", "ltx2", "tasks")
FORBIDDEN = {
    "blobstore": {"tasks", "ltx2", "torch", "celery", "kombu", "numpy", "PIL"},
    "ltx2": {"tasks", "celery", "kombu", "redis"},
    "tasks": {"tests"},
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
MAX_LINES = 400


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports here are absolute"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_downwards(package: str) -> None:
    found = {(path.name, name) for path in sources(package) for name in imported(path)}
    assert found, f"no sources of {package}"
    assert not {(file, name) for file, name in found if name in FORBIDDEN[package]}


@pytest.mark.parametrize("module", ["blobstore", "ltx2", "tasks", "tasks.client", "tasks.cli"])
def test_importing_it_leaves_torch_alone(module: str) -> None:
    code = f"import {module}, sys; print(*sorted({{'torch', 'diffusers', 'transformers'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_a_worker_leaves_torch_to_its_child(tmp_path: Path) -> None:
    """Once torch has looked for a GPU, a forked child cannot use it."""
    code = """
import sys
from tasks import clip, film, segment, worker
worker.check_model(["segments"])
print("torch" in sys.modules)
"""
    environ = os.environ | {"LONGTAKE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environ)
    assert ran.stdout.split() == ["False"]
    assert list((tmp_path / "models").iterdir())


def test_nothing_is_pickled() -> None:
    assert not {(path.name, name) for path in sources(*PACKAGES) for name in imported(path) if name in PICKLES}


def test_celery_takes_json_only() -> None:
    from tasks import app

    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.result_accept_content in (None, ["json"])
    assert {app.conf.task_serializer, app.conf.result_serializer, app.conf.event_serializer} == {"json"}


@pytest.mark.parametrize("path", sources(*PACKAGES, "tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
