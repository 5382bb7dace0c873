"""What README and docs say is true: every command in them runs, every name in them exists."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from flower.options import options as flower_options

from tasks import Job
from tasks.cli import main
from tasks.settings import Settings, variable
from tasks.spec.loader import parse_spec
from tests.conftest import ROOT, RedisProcess, Worker, environment, forked, free_port

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
# These also say what things were called before.
HISTORY = (ROOT / "CHANGELOG.md", ROOT / "docs" / "upgrading.md")
CURRENT = [path for path in DOCUMENTS if path not in HISTORY]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#:]*)(?:#([\w-]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w./~-])(?:blobstore|ltx2|tasks|tests|training|benchmarks|docs|examples)/[\w./-]*(?:::\w+)?")
MODULE = re.compile(r"python -m ((?:benchmarks|tasks|training)[\w.]+)")
NAME = re.compile(r"\b((?:blobstore|ltx2|tasks|training|benchmarks)(?:\.[a-z_]\w*)*)[.:]([A-Za-z_]\w*)\b(?!/)")
KIND = "ltx2.v1"
TIMEOUT_S = 200
# Whatever a block leaves in the background must be alive at the end, and is ended then.
OPENING = "set -eu\ntrap 'status=$?; set +e; kill $(jobs -p) 2>/dev/null; wait; exit $status' EXIT\n"
CLOSING = 'test "$(jobs -pr | wc -l)" -eq {jobs} || {{ echo "a command in the background has ended"; exit 1; }}\n'


def blocks(document: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(document.read_text())


def prose(document: Path) -> str:
    return BLOCK.sub("", document.read_text())


def named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def code(document: Path) -> str:
    """All blocks, and what stands between backticks in sentences."""
    return "\n".join([*(text for _, text in blocks(document)), *SPAN.findall(prose(document))])


def anchors(document: Path) -> set[str]:
    """The names under which links reach the headings of a page."""
    titles = [re.sub(r"\[(.+?)\]\(.+?\)|`", r"\1", title) for title in HEADING.findall(prose(document))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def script(document: Path, folder: Path) -> str:
    """Every `sh` and `python` block in order, without the lines that call make.

    The server gets a free port, and is waited for: a reader sees when it has started.
    """
    parts, port = [], free_port()
    started = f"until (exec 3<> /dev/tcp/127.0.0.1/{port}) 2> /dev/null; do sleep 0.1; done"
    for number, (language, text) in enumerate(blocks(document)):
        if language == "sh":
            lines = [line for line in text.splitlines() if not line.startswith("make ")]
            for line in lines:
                line = line.replace("--port=5555", f"--port={free_port()}").replace(":8000", f":{port}")
                parts.append(line.replace("longtake serve", f"longtake serve --port {port}"))
                if line.startswith("longtake serve"):
                    parts.append(started)
        elif language == "python":
            (folder / f"block{number}.py").write_text(text.replace(":8000", f":{port}"))
            parts.append(shlex.join(forked(f"block{number}")))
    return "\n".join(parts)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as a reader has it: the examples, and `longtake` on PATH whether it is installed or not."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "longtake"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(forked("tasks.cli"))} "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


RUNNABLE = [path for path in DOCUMENTS if {language for language, _ in blocks(path)} & {"sh", "python"}]


@pytest.mark.parametrize("document", RUNNABLE, ids=named(RUNNABLE))
def test_every_block_runs(
    document: Path, desk: Path, server: RedisProcess, home: Path, start_worker: Callable[..., Worker]
) -> None:
    # Given
    text = script(document, desk)
    settings = Settings(redis_url=server.url, home=home, model="tiny")
    if re.search(r"longtake submit|submit\(", code(document)) and "longtake worker" not in text:
        start_worker(settings)
    in_background = re.findall(r"&$", text, re.MULTILINE)
    environ = environment(settings)
    environ["PATH"] = f"{desk / 'bin'}{os.pathsep}{environ['PATH']}"
    # When
    with (desk / "output.log").open("w") as log:
        shell = subprocess.Popen(
            ["bash", "-c", f"{OPENING}{text}\n{CLOSING.format(jobs=len(in_background))}"],
            cwd=desk,
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(TIMEOUT_S)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
    # Then
    output = (desk / "output.log").read_text(errors="replace")
    assert status == 0, f"{text}\n\n{output[-4000:]}"
    assert "Traceback" not in output, output[-4000:]
    promised = set(re.findall(r"(?:-o |save\(\")([\w./]+)", "\n".join(inner for _, inner in blocks(document))))
    assert not {name for name in promised if not (desk / name).stat().st_size}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named(DOCUMENTS))
def test_every_make_target_exists(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", code(document), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_make_faults_names_tests_that_exist() -> None:
    shown = subprocess.run(["make", "--dry-run", "faults"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = set(PATH.findall(shown))
    assert "tests/faults" in found
    assert {path for path in found if not (ROOT / path).exists()} == set()


def test_the_readme_s_spec_is_the_example() -> None:
    specs = [parse_spec(text) for language, text in blocks(ROOT / "README.md") if language == "yaml"]
    assert specs == [parse_spec((ROOT / "examples" / "harbour.yaml").read_text())]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_spec(path: Path) -> None:
    assert parse_spec(path.read_text()).segments


@pytest.mark.parametrize("document", DOCUMENTS, ids=named(DOCUMENTS))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(prose(document)):
        page = document.parent / target if target else document
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


@pytest.mark.parametrize("document", CURRENT, ids=named(CURRENT))
def test_every_path_exists(document: Path) -> None:
    for found in PATH.findall(code(document)):
        path, _, test = found.partition("::")
        if "NAME" not in path:
            assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), found
    for module in MODULE.findall(code(document)):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("document", CURRENT, ids=named(CURRENT))
def test_every_name_exists(document: Path) -> None:
    for module, name in NAME.findall(code(document).replace(KIND, "")):
        inner = f"{module}.{name}".replace(".", "/")
        if not any((ROOT / f"{inner}{ending}").exists() for ending in ("", ".py")):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    for method in re.findall(r"\bJob\.(\w+)", code(document)):
        assert hasattr(Job, method), f"Job.{method}"


def test_the_tree_is_as_it_is_drawn() -> None:
    (tree,) = (text for _, text in blocks(ROOT / "docs" / "architecture.md") if text.startswith("blobstore/"))
    folders = {-1: ROOT}  # by the indent of their lines
    for line in tree.splitlines():
        found = [word for word in re.split(r"\s{2,}", line.strip()) if re.fullmatch(r"\w+(\.py|/)", word)]
        indent = len(line) - len(line.lstrip())
        folders = {at: folder for at, folder in folders.items() if at < indent}
        parent = folders[max(folders)]
        assert found, line
        assert not [name for name in found if not (parent / name).exists()], line
        folders[indent] = parent / found[0]


@pytest.mark.parametrize("document", DECISIONS, ids=named(DECISIONS))
def test_a_decision_fits_on_a_page(document: Path) -> None:
    assert len(document.read_text().splitlines()) <= 40


@pytest.mark.parametrize("document", DOCUMENTS, ids=named(DOCUMENTS))
def test_every_variable_is_a_setting(document: Path) -> None:
    known = {variable(name) for name in Settings.model_fields}
    known |= set(re.findall(r"LONGTAKE_\w+", (ROOT / "docker-compose.yml").read_text()))
    known |= {"LONGTAKE_COMPLETE"}  # `_LONGTAKE_COMPLETE` is click's
    assert set(re.findall(r"LONGTAKE_[A-Z_]+", document.read_text())) <= known


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """`command` and everything below it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, *path, name)


COMMANDS = dict(commands(main))
OWN = ("--help", "-h")


def check_usage(words: list[str]) -> None:
    """`words` after `longtake` name a command, and options that it has."""
    path: tuple[str, ...] = ()
    while words and (*path, words[0]) in COMMANDS:
        path = (*path, words.pop(0))
    assert path or not words or words[0] in ("--help", "--version"), f"no command {words[0]}"
    known = {name for parameter in COMMANDS[path].params for name in parameter.opts}
    for word in words:
        assert not word.startswith("-") or word.partition("=")[0] in {*known, *OWN}, f"{path}: no option {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named(DOCUMENTS))
def test_every_command_in_a_sentence_exists(document: Path) -> None:
    for span in SPAN.findall(prose(document)):
        if span.startswith("longtake "):
            check_usage(span.split()[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=named(DOCUMENTS))
def test_flower_knows_its_options(document: Path) -> None:
    known = {name.replace("-", "_") for name in flower_options.as_dict()}  # Flower itself ignores what it does not know
    for line in re.findall(r"celery -A tasks flower (.*)", document.read_text()):
        assert {name.replace("-", "_") for name in re.findall(r"--([\w-]+)", line)} <= known


def test_no_line_of_a_list_of_commands_is_cut() -> None:
    for path, command in COMMANDS.items():
        if isinstance(command, click.Group):
            shown = CliRunner().invoke(main, [*path, "--help"], terminal_width=80).output
            assert "..." not in shown.partition("Commands:")[2], path


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "longtake")
def test_help_says_what_a_command_is_for(path: tuple[str, ...]) -> None:
    # When
    shown = CliRunner().invoke(main, [*path, "--help"], prog_name="longtake")
    # Then
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: {' '.join(('longtake', *path))} ")
    assert COMMANDS[path].help
    for span in SPAN.findall(str(COMMANDS[path].help)):
        if span.startswith("longtake "):
            check_usage(span.split()[1:])
