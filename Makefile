# `make demo` and `make test` work on a fresh clone with nothing but Python 3.10+ and make.
PYTHON ?= python3
VENV = .venv
RUN = $(VENV)/bin/python

.DEFAULT_GOAL = help
.PHONY: help demo test check server worker order lock

help:  ## List these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)  ## Run the same faults and kills through both versions, and print the table
	$(RUN) -m comparison

test: $(VENV)  ## Run the tests
	$(RUN) -m pytest

check: $(VENV)  ## Check format, lint and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

server: $(VENV)  ## Start a local Temporal server (UI at localhost:8233)
	$(RUN) run_server.py

worker: $(VENV)  ## Start a worker
	$(RUN) run_worker.py

order: $(VENV)  ## Start the sample order and wait for its outcome
	$(RUN) run_workflow.py

lock: $(VENV)  ## Resolve requirements.lock again
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --upgrade \
		--group dev pyproject.toml --output-file requirements.lock

$(VENV): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $(VENV)
