# `make film` renders a film on a machine that has Python 3.11 or 3.12 and nothing else; `make test` checks everything;
# `make faults` breaks a deployment in every way we know and prints what that cost (CHAOS_SEED, CHAOS_MINUTES);
# `make docs` builds the site out/docs, and `make coverage` measures how much of the code the tests run.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# Where pip finds torch when the default index should not be asked, such as PyTorch's own for CPU builds.
TORCH_INDEX ?=
TORCH = $(shell grep '^torch==' constraints.txt)
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
SPEC ?= examples/bounce.yaml

# Tests wait for servers and workers half of the time, so there are three processes of them for two cores; and one thread
# each for torch, whose threads would wait for one another.
.PHONY: film test faults lint docs coverage clean

film: .venv/film-ready
	.venv/bin/longtake render $(SPEC) -o out/film.mp4

test: .venv/test-ready lint
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 3 --dist loadfile

faults: .venv/test-ready
	.venv/bin/python -m pytest tests/faults tests/tasks/jobs/test_stateful.py -m "not gpu" --durations 0 -s

lint: .venv/test-ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# A warning fails the build: a link that leads nowhere, a public name that is not described.
docs: .venv/docs-ready
	.venv/bin/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet --conf-dir docs --builder html . out/docs
	@echo "out/docs/index.html"

coverage: .venv/test-ready
	.venv/bin/coverage erase
	OMP_NUM_THREADS=1 .venv/bin/coverage run -m pytest --numprocesses 3 --dist loadfile
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report

clean:
	rm -rf .venv out

.venv/film-ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "longtake needs Python 3.11 or 3.12 on PATH, or make PYTHON=/path/to/python"; exit 1; }
	@echo "preparing .venv with $(PYTHON), a few minutes the first time"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

.venv/test-ready: .venv/film-ready
	@$(PIP) --constraint constraints.txt --editable ".[test]"
	@touch $@

.venv/docs-ready: .venv/film-ready
	@$(PIP) --constraint constraints.txt --editable ".[docs]"
	@touch $@
