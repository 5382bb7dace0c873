# make film      renders a film; needs only Python 3.11 or 3.12
# make test      runs linters and tests
# make faults    runs all fault tests and prints the cost of each fault (CHAOS_SEED, CHAOS_MINUTES)
# make fuzz      fuzzes every parser for a minute (FUZZ_SECONDS); needs Linux on x86-64
# make fuzzhttp  sends odd requests to a server for a minute (FUZZ_SECONDS), with schemathesis
# make docs      builds the site in out/docs
# make coverage  measures which code the tests run
# make audit     looks up known vulnerabilities of what constraints.txt pins; needs network access
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# An index for torch other than pip's default, such as PyTorch's index of CPU builds.
TORCH_INDEX ?=
TORCH = $(shell grep '^torch==' constraints.txt)
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
SPEC ?= examples/bounce.yaml

# What else the table of faults shows: random histories, host faults, clocks that jump, upgrades, seams.
FAULTS = $(addprefix tests/tasks/,jobs/test_stateful.py jobs/test_clock.py worker/test_host_faults.py \
	worker/test_rolling_versions.py test_upgrade.py) tests/fuzz/test_large_inputs.py tests/test_benchmarks.py \
	$(addprefix tests/ltx2/,model/codecs/test_picture_decoder.py quality/test_shipped_model.py)

# Tests spend half of their time waiting for servers and workers, so four processes suit two cores. Several torch threads
# per process would compete for the cores. They start hundreds of processes, which would compile every module again where
# Python is told to write no bytecode, as in many container images.
test faults coverage: export PYTHONDONTWRITEBYTECODE =

.PHONY: film test faults fuzz fuzzhttp lint docs coverage audit clean

film: .venv/film-ready
	.venv/bin/longtake render $(SPEC) -o out/film.mp4

test: .venv/test-ready lint
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 4 --dist loadfile

faults: .venv/test-ready
	.venv/bin/python -m pytest tests/faults $(FAULTS) -m "not gpu" --durations 0 -s

fuzz: .venv/fuzz-ready
	.venv/bin/python -m tests.fuzz.run

# In an environment of its own: its plugin for pytest would slow down every test run.
fuzzhttp: .venv/test-ready
	@test -x out/fuzzhttp/bin/schemathesis || (.venv/bin/python -m venv out/fuzzhttp && \
		out/fuzzhttp/bin/python -m pip install --quiet --disable-pip-version-check "schemathesis>=4.32,<5")
	.venv/bin/python -m tests.fuzz.http out/fuzzhttp/bin/schemathesis

lint: .venv/test-ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# A warning fails the build, such as a broken link or an undescribed public name.
docs: .venv/docs-ready
	.venv/bin/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet --conf-dir docs --builder html . out/docs
	@echo "out/docs/index.html"

coverage: .venv/test-ready
	.venv/bin/coverage erase
	OMP_NUM_THREADS=1 .venv/bin/coverage run -m pytest --numprocesses 4 --dist loadfile
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report

# In an environment of its own, because what it needs is not part of longtake; and not in CI, which must not depend on it.
audit: .venv/film-ready
	@test -x out/audit/bin/pip-audit || (.venv/bin/python -m venv out/audit && \
		out/audit/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9,<3")
	out/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

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

.venv/fuzz-ready: .venv/film-ready
	@$(PIP) --constraint constraints.txt --editable ".[fuzz]"
	@touch $@

.venv/docs-ready: .venv/film-ready
	@$(PIP) --constraint constraints.txt --editable ".[docs]"
	@touch $@
