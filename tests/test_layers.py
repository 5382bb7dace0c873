"""Import and deserialization rules: import-linter's contracts, and the rules that it cannot express."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("blobstore", "ltx2", "tasks", "training")
# import-linter does not analyze `training` and `tests`: they are not in the wheel.
FORBIDDEN = {
    "blobstore": {"tests", "training"},
    "ltx2": {"tests", "training"},
    "tasks": {"tests", "training"},
    "training": {"tasks", "tests", "celery", "kombu", "redis"},
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
# Functions that run code from their input, or can.
UNSAFE = {
    *("eval", "exec", "torch.load", "torch.jit.load", "numpy.load", "np.load", "joblib.load", "pandas.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
}
MOST_MODULES = 20
UNSAFE_ARGUMENTS = {"allow_pickle", "trust_remote_code", "weights_only"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield str(node.module).partition(".")[0]


def test_import_linter_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_no_folder_has_more_modules_than_people_can_look_through() -> None:
    modules = Counter(path.parent for path in sources(*PACKAGES) if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)) for folder, count in modules.items() if count > MOST_MODULES} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_no_tests_and_training_imports_no_tasks(package: str) -> None:
    found = {(path.name, name) for path in sources(package) for name in imported(path)}
    assert found, f"no sources of {package}"
    assert not {(file, name) for file, name in found if name in FORBIDDEN[package]}


@pytest.mark.parametrize("module", ["blobstore", "ltx2", "tasks", "tasks.client.job", "tasks.cli"])
def test_import_does_not_load_torch(module: str) -> None:
    code = f"import {module}, sys; print(*sorted({{'torch', 'diffusers', 'transformers'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_the_main_process_of_a_worker_does_not_load_torch(tmp_path: Path) -> None:
    """If torch has initialized CUDA, a forked child cannot use it."""
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
    """Every call in a file with the full name of its function, also if that was imported under another name."""
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


def test_no_input_can_run_code() -> None:
    found = [(path.name, name, call) for path in sources(*PACKAGES) for name, call in calls(path)]
    assert any(name == "yaml.parse" for _, name, _ in found)
    assert not {(file, call.lineno, name) for file, name, call in found if name in UNSAFE}
    for file, name, call in found:
        arguments = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert not UNSAFE_ARGUMENTS & set(arguments), f"{file}:{call.lineno}: {name}"
        assert arguments.get("Loader", "yaml.CSafeLoader") == "yaml.CSafeLoader", f"{file}:{call.lineno}: {name}"
        if name.endswith(".from_pretrained") and not name.endswith(
            ("Tokenizer.from_pretrained", "Config.from_pretrained")
        ):
            assert arguments["use_safetensors"] == "True", f"{file}:{call.lineno}: {name}"


@pytest.mark.parametrize(
    "code",
    ["import yaml as y\ny.load(a)", "from torch import load\nload(a)", "from torch import load as l\nl(a)", "eval(a)"],
)
def test_unsafe_calls_are_found_under_any_name(code: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code)
    assert {name for name, _ in calls(tmp_path / "code.py")} <= UNSAFE


def test_celery_accepts_json_only() -> None:
    from tasks import app

    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.result_accept_content in (None, ["json"])
    assert {app.conf.task_serializer, app.conf.result_serializer, app.conf.event_serializer} == {"json"}
