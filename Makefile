# make demo, make test: each needs Python 3.11 or later and nothing else; the first call sets up .venv.
# pip takes whatever build of torch its index offers, a CPU build first where there is one: set PIP_EXTRA_INDEX_URL to
# PyTorch's index of CPU wheels to avoid the large CUDA build on Linux.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
AUDIT := $(VENV)/audit/bin
RUN ?= runs/demo
PARALLEL ?= -n auto --dist worksteal

.PHONY: help demo test quick gpu-test faults mutants lint types format lines docs lock audit bench shipped clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

demo: $(VENV)/.demo  ## train on photographs, evaluate, sample, check: about 8 minutes on 2 CPU cores (RUN=runs/demo)
	$(BIN)/python examples/demo.py $(RUN)

test: $(VENV)/.dev  ## all tests, one process for each core
	$(BIN)/python -m pytest $(PARALLEL)

quick: $(VENV)/.dev  ## all tests but the slow ones: processes that are killed, wheels, packages that are missing
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

gpu-test: $(VENV)/.dev  ## what only a GPU can show, on a machine with one or more: nobody has run it yet
	$(BIN)/python -m pytest -m gpu -ra

faults: $(VENV)/.dev  ## kill trainings, fill disks, flip bits: hundreds of times, about 10 minutes
	$(BIN)/python -m tests.faults.kill
	$(BIN)/python -m tests.faults.storage
	$(BIN)/python -m tests.faults.others

mutants: $(VENV)/.dev  ## plant mistakes in the source and see that the tests tell each: about 15 minutes
	$(BIN)/python -m tests.mutants

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

docs: $(VENV)/.docs  ## the documentation, with its tutorials run: build/docs/html/index.html, about 5 minutes at first
	$(BIN)/sphinx-build -W --keep-going -q -b doctest -d build/docs/doctrees docs build/docs/doctest
	$(BIN)/sphinx-build -W --keep-going -q -b html -d build/docs/doctrees docs build/docs/html

bench: $(VENV)/.dev  ## speed and memory: about an hour on 2 idle CPU cores (docs/performance.md)
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.scaling

shipped: $(VENV)/.dev  ## train the two flows inside the package anew: about 10 minutes on one core
	OMP_NUM_THREADS=1 $(BIN)/realnvp train digits-modern --run-dir runs/digits-small --device cpu
	OMP_NUM_THREADS=1 $(BIN)/realnvp train photos-modern --run-dir runs/photos-small --model.width 24 --model.growth 1.5 --model.num-couplings 8 --device cpu
	for name in digits-small photos-small; do \
		$(BIN)/realnvp evaluate runs/$$name --noise-draws 4 && \
		$(BIN)/realnvp share runs/$$name src/realnvp/shipped/$$name --licence mit || exit 1; \
	done

# Versions only: hashes, and the local part of a version (+cpu), would bind the list to one platform.
lock: $(VENV)/.dev  ## requirements-dev.lock anew: the versions that are installed, so test them first
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' > requirements-dev.lock

audit: $(VENV)/.audit  ## known vulnerabilities of what is locked; a package that cannot be looked up fails, too (needs the internet)
	@said=$$($(AUDIT)/pip-audit --strict --no-deps --disable-pip -r requirements-dev.lock 2>&1); code=$$?; echo "$$said"; \
	case "$$code $$said" in 0*) ;; \
		*"known vulnerabilit"*) echo "make audit: VULNERABLE: the packages above"; exit 1 ;; \
		*) echo "make audit: NOT AUDITED: a package could not be looked up, so nothing is known of any (no internet?)"; exit 1 ;; esac

clean:  ## remove the environment and caches, not your runs
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(AUDIT)/pip install --disable-pip-version-check pip-audit
	touch $@

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -e '.[train]'
	touch $@

$(VENV)/.docs: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -e '.[docs]'
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -e '.[dev]'
	touch $@
