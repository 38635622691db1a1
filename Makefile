# `make up` starts the whole system, `make test` checks everything; both set up what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A Python is never downloaded: the machine's own is used.
export UV_PYTHON_DOWNLOADS := never
export VIRTUAL_ENV := $(abspath $(VENV))

.DEFAULT_GOAL := help
.PHONY: help setup up test lint bench-jobs bench-docs chaos chaos-docs lock clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make the virtual environment and install the locked dependencies.

up: setup ## Start everything; Ctrl-C stops it. Options: make up ARGS="--port-base 9000".
	@exec $(BIN)/millrace up $(ARGS)

test: setup lint ## Run every test and check. Options for pytest: make test ARGS=-x.
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/unit tests/architecture tests/contracts tests/integration $(ARGS)
	$(BIN)/pytest tests/e2e tests/chaos $(ARGS)  # whole systems, one at a time

lint: setup ## Style, types and boundaries.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-jobs: setup $(VENV)-bench/.installed ## Jobs a second, latency, CPU, beside six task queues: make bench-jobs ARGS=--json.
	@exec $(BIN)/python -m bench.jobs $(ARGS)

bench-docs: setup ## Write the tables of docs/benchmarks.md from REPORTS="bench.json", printed by benchmarks' --json.
	$(BIN)/python -m bench.document $(REPORTS)

chaos: setup ## Break a system of its own in every way, alone and mixed; about 50 minutes. ARGS="--faults broker".
	$(BIN)/millrace chaos --faults all,mixed --seconds 600 $(ARGS)

chaos-docs: setup ## Write the tables of docs/reliability.md from REPORTS="a.json b.json", printed by chaos ARGS=--json.
	$(BIN)/python -m infra.chaos.document $(REPORTS)

lock: $(VENV)/.uv ## Write the lock files anew, with the newest versions that fit.
	PATH="$(abspath $(BIN)):$$PATH" requirements/compile --upgrade

clean: ## Remove the virtual environment and caches; the stack's data in .millrace stays.
	rm -rf $(VENV) $(VENV)-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# Done again only when a lock, or what the package declares, changes.
$(VENV)/.installed: requirements/dev.lock pyproject.toml $(VENV)/.uv
	@echo "installing the locked dependencies"
	@$(BIN)/uv pip install --quiet --require-hashes --compile-bytecode -r requirements/dev.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# The peers that benchmarks compare with, apart from what the product runs on.
$(VENV)-bench/.installed: requirements/bench.lock $(VENV)/.uv
	@echo "installing the locked peers"
	@$(BIN)/python -m venv $(VENV)-bench
	@VIRTUAL_ENV=$(abspath $(VENV)-bench) $(BIN)/uv pip install --quiet --require-hashes --compile-bytecode -r requirements/bench.lock
	@touch $@

$(VENV)/.uv: requirements/bootstrap.lock | $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	@touch $@

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not there: install Python 3.11 or later"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is `$(PYTHON) -V`; Millrace needs 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: no virtual environment could be made; on Debian: apt install python3-venv"; exit 1; }
