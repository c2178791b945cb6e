# Each target sets up all it needs in .venv, on a fresh machine with Python 3.10+; run any of them, in any order, as often as you like.
#   make demo   a trained tiny Emu reads and draws       make lab    the notebooks in JupyterLab
#   make test   lint, tests and notebooks                make lint   ruff alone
#   make site   the notebooks as pages in build/site     make test-fast   the tests, without the slow ones and the notebooks
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

# Nothing here asks a model hub for anything, and every worker of a parallel run gets one thread.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-fast lint lab site setup
help:
	@sed -n '1,4p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "minemu needs Python 3.10 or newer; name one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

demo: $(READY)
	$(BIN)/minemu demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint test-fast
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests
ifneq ($(NOTEBOOKS),)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout 300 $(NOTEBOOKS)
endif

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests

site: $(READY)
	$(BIN)/python notebooks/build.py --site build/site

lab: $(READY)
	$(BIN)/jupyter lab notebooks
