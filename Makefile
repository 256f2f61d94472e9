# make demo, make test: each needs Python 3.11 or later and nothing else; the first call sets up .venv.
# pip takes whatever build of torch its index offers, a CPU build first where there is one: set PIP_EXTRA_INDEX_URL to
# PyTorch's index of CPU wheels to avoid the large CUDA build on Linux.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
AUDIT := $(VENV)/audit/bin
RUN ?= runs/demo
PARALLEL ?= -n auto --dist worksteal

.PHONY: help demo test quick gpu-test faults mutants lint types format docs lock audit bench pretrained pretrained-photographs clean

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
	$(BIN)/python -m tests.faults

mutants: $(VENV)/.dev  ## see that tests fail on 28 mistakes planted in equations: 5 minutes (mutmut plants thousands)
	$(BIN)/python -m tests.mutants

lint: $(VENV)/.dev  ## ruff: mistakes and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## the documentation, with its tutorials run: build/docs/html/index.html, about 5 minutes at first
	$(BIN)/sphinx-build -W --keep-going -q -b doctest -d build/docs/doctrees docs build/docs/doctest
	$(BIN)/sphinx-build -W --keep-going -q -b html -d build/docs/doctrees docs build/docs/html

bench: $(VENV)/.dev  ## speed and memory: about an hour on 2 idle CPU cores (docs/experiments.md)
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.memory

pretrained: $(VENV)/.dev  ## train the flows digits-8 and photos-32 anew: about 10 minutes on one core
	OMP_NUM_THREADS=1 $(BIN)/realnvp train digits-modern --run-dir runs/digits-8 --device cpu
	OMP_NUM_THREADS=1 $(BIN)/realnvp train photos-modern --run-dir runs/photos-32 --model.width 24 --model.growth 1.5 --model.num-couplings 8 --device cpu
	for name in digits-8 photos-32; do \
		$(BIN)/realnvp evaluate runs/$$name --noise-draws 4 && \
		$(BIN)/realnvp package runs/$$name runs/$$name/package --license mit && \
		cp runs/$$name/package/model.safetensors src/realnvp/pretrained/$$name.safetensors || exit 1; \
	done

PHOTOGRAPHS := images-modern --data.augment hflip rotate90 --train.muon-weight-decay 0.01 --device cpu
CROPS_64 := --data.crop 64 --train.batch-size 8 --train.lr 0.003 --train.muon-lr 0.01 --train.decay 1
SLOWER := --train.lr 0.0025 --train.muon-lr 0.009
SOURCES := 109 reduced photographs of Debian's packages: budgie-backgrounds 3.0-1 and 4.2-1 (CC0-1.0), gnome-backgrounds 3.38.0-1 (CC-BY-SA-3.0, GPL-2+), krank 0.7+dfsg2-5 (public domain), lomiri-wallpapers-16.04 and -20.04 20.04.0-4 (CC0-1.0, CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0), lxqt-themes 2.1.0-1 (LGPL-2.1+, CC-BY-SA-3.0), mate-backgrounds 1.26.0-1 and plasma-workspace-wallpapers 4:6.3.4-1 (GPL-2+), palapeli-data 4:25.04.0-1 (GPL-2+, GFDL, public domain), ukui-wallpapers 20.04.4-1 (CC-BY-SA-3.0)
# The flow in the package learned its noise in three forms: independent in runs 1 to 5, autoregressive in 6 and 7, and the
# present form, which alone is left, in the last run.
pretrained-photographs: $(VENV)/.dev  ## train `photos-full` anew, on the folder PICTURES of benchmarks/photographs.py: nine hours of one core
	set -e; train() { of="--run-dir runs/photographs$$1 --data.source $(PICTURES)/$$2"; shift 2; \
		OMP_NUM_THREADS=1 $(BIN)/realnvp train $(PHOTOGRAPHS) $$of "$$@"; }; \
	train -1 first --data.crop 32 --data.augment hflip rotate90 channel_shuffle --model.num-scales 3 --model.width 64 --model.growth 1.5 --model.num-couplings 10 --model.dequantization learned --train.batch-size 32 --train.max-minutes 55 --train.decay 0.4; \
	train -2 first $(CROPS_64) --init-from runs/photographs-1 --train.max-minutes 27; \
	train -3 first $(CROPS_64) --init-from runs/photographs-2 --train.max-minutes 116; \
	train -4 all --data.crop 32 --init-from runs/photographs-3 --train.batch-size 32 --train.lr 0.004 --train.muon-lr 0.014 --train.max-minutes 40 --train.decay 0.3; \
	train -5 all $(CROPS_64) --init-from runs/photographs-4 --train.max-minutes 70; \
	train -6 all $(CROPS_64) $(SLOWER) --init-from runs/photographs-5 --train.max-minutes 69; \
	train -7 all $(CROPS_64) $(SLOWER) --init-from runs/photographs-6 --train.max-minutes 108; \
	train "" all $(CROPS_64) $(SLOWER) --init-from runs/photographs-7 --train.max-minutes 72
	$(BIN)/realnvp evaluate runs/photographs --noise-draws 4
	$(BIN)/realnvp package runs/photographs runs/photographs/package --license mit --sources "$(SOURCES)"
	cp runs/photographs/package/model.safetensors src/realnvp/pretrained/photos-full.safetensors

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
