# Every target sets the environment up first when it is missing: `make train` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# where it is set, every start would compile what it imports anew
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup train test lint soak bench tensorboard clean

help:                ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)      ## create .venv with the pinned versions and lmx in editable mode

# torch first and alone: a range asked for by another package may pull several GB of another build
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lmx needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

train: $(READY)      ## train the default model on the embedded corpus (under two minutes on two cores)
	$(BIN)/python -m lmx.train $(ARGS)

test: $(READY)       ## run the tests (LMX_TEST_DATA=DIR adds those on real corpora)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist worksteal $(ARGS)

soak: $(READY)       ## the long tests: kills, damaged files, random input; prints tried, survived, lost
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(READY)      ## a training step against nanoGPT's loop, Lightning and transformers' Trainer
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.training $(ARGS)

lint: $(READY)       ## ruff and mypy
	$(BIN)/ruff check lmx tests benchmarks
	$(BIN)/ruff format --check lmx tests benchmarks
	$(BIN)/mypy

tensorboard: $(READY) ## open TensorBoard on all runs
	$(BIN)/tensorboard --logdir outputs

clean:               ## remove the environment and caches; runs in outputs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find lmx tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
