# make demo, make test: each needs Python 3.11 or later and nothing else; the first call sets up .venv.
# pip takes whatever build of torch its index offers, a CPU build first where there is one: set PIP_EXTRA_INDEX_URL to
# PyTorch's index of CPU wheels to avoid the large CUDA build on Linux.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: help demo test faults lint types format lines clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

demo: $(VENV)/.demo  ## train on photographs, evaluate, sample, check: about 10 minutes on 2 CPU cores (RUN=runs/demo)
	$(BIN)/python examples/demo.py $(RUN)

test: $(VENV)/.dev  ## all tests
	$(BIN)/python -m pytest

faults: $(VENV)/.dev  ## kill trainings, fill disks, flip bits: hundreds of times, about 10 minutes
	$(BIN)/python -m tests.faults.kill
	$(BIN)/python -m tests.faults.storage
	$(BIN)/python -m tests.faults.others

lint: $(VENV)/.dev  ## ruff: mistakes and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lines: $(VENV)/.dev  ## bring the line numbers in docs/paper_map.md up to date
	$(BIN)/python docs/lines.py

clean:  ## remove the environment and caches, not your runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -e '.[train]'
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -e '.[dev]'
	touch $@
