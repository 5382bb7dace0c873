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

PACKAGES = ("blobstore", "ltx2", "tasks", "training")
FORBIDDEN = {
    "blobstore": {"tasks", "ltx2", "training", "torch", "celery", "kombu", "numpy", "PIL"},
    "ltx2": {"tasks", "training", "celery", "kombu", "redis"},
    "tasks": {"tests", "training"},
    "training": {"tasks", "tests", "celery", "kombu", "redis"},
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
# What runs code that it finds in the data, or would if it were let.
UNSAFE = {
    *("eval", "exec", "torch.load", "torch.jit.load", "numpy.load", "np.load", "joblib.load", "pandas.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
}
UNSAFE_ARGUMENTS = {"allow_pickle", "trust_remote_code", "weights_only"}
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


@pytest.mark.parametrize("module", ["blobstore", "ltx2", "tasks", "tasks.client.job", "tasks.cli"])
def test_importing_it_leaves_torch_alone(module: str) -> None:
    code = f"import {module}, sys; print(*sorted({{'torch', 'diffusers', 'transformers'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_a_worker_leaves_torch_to_its_child(tmp_path: Path) -> None:
    """Once torch has looked for a GPU, a forked child cannot use it."""
    code = """
import sys
from tasks.worker import clip_task, film_task, lifecycle, segment_task
from tasks.settings import Settings
lifecycle.check_model(Settings.from_env(), ["segments"])
print("torch" in sys.modules)
"""
    environ = os.environ | {"LONGTAKE_HOME": str(tmp_path), "LONGTAKE_MODEL": "tiny"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environ)
    assert ran.stdout.split() == ["False"]
    assert list((tmp_path / "models").iterdir())


def test_nothing_is_pickled() -> None:
    assert not {(path.name, name) for path in sources(*PACKAGES) for name in imported(path) if name in PICKLES}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, by what is called: `yaml.load`, also where that was imported by itself or renamed."""
    tree = ast.parse(path.read_text())
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield f"{names.get(first, first)}{dot}{rest}", node


def test_nothing_is_read_in_a_way_that_can_run_code() -> None:
    found = [(path.name, name, call) for path in sources(*PACKAGES) for name, call in calls(path)]
    assert any(name == "yaml.compose" for _, name, _ in found)
    assert not {(file, call.lineno, name) for file, name, call in found if name in UNSAFE}
    for file, name, call in found:
        arguments = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert not UNSAFE_ARGUMENTS & set(arguments), f"{file}:{call.lineno}: {name}"
        assert arguments.get("Loader", "yaml.SafeLoader") == "yaml.SafeLoader", f"{file}:{call.lineno}: {name}"
        if name.endswith(".from_pretrained") and not name.endswith("Tokenizer.from_pretrained"):
            assert arguments["use_safetensors"] == "True", f"{file}:{call.lineno}: {name}"


@pytest.mark.parametrize(
    "code",
    ["import yaml as y\ny.load(a)", "from torch import load\nload(a)", "from torch import load as l\nl(a)", "eval(a)"],
)
def test_unsafe_calls_are_found_under_any_name(code: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code)
    assert {name for name, _ in calls(tmp_path / "code.py")} <= UNSAFE


def test_celery_takes_json_only() -> None:
    from tasks import app

    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.result_accept_content in (None, ["json"])
    assert {app.conf.task_serializer, app.conf.result_serializer, app.conf.event_serializer} == {"json"}


@pytest.mark.parametrize("path", sources(*PACKAGES, "tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
