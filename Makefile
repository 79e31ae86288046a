# Two commands do everything on a fresh machine: `make demo` and `make test`. `make` alone lists the rest.
SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON  ?= python3
EXTRAS  ?= dev
CASE    ?= jores21
SCALE   ?= smoke
WORKERS ?= 2
README  ?= README.md
FOR     ?= 120
SEED    ?= 0
STAMP   := .venv/.stamp
BIN     := $(CURDIR)/.venv/bin

# numba keeps compiled kernels of changed code: a folder of their own for each state of the source.
STATE := $(shell find nbs eugene \( -name '*.ipynb' -o -name '*.py' \) 2>/dev/null | LC_ALL=C sort | tr '\n' '\0' | xargs -0 cat | cksum | tr ' ' '-')
export NUMBA_CACHE_DIR := $(CURDIR)/.cache/numba-$(STATE)
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONUNBUFFERED := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(strip $(EUGENE_DATA)),)
override EUGENE_DATA := $(abspath $(EUGENE_DATA))
export EUGENE_DATA
endif

.PHONY: help demo test fuzz bench docs use-case readme export check-export notebooks execute build clean

help: ## this list
	@echo "eugene: from raw regulatory-genomics data to an explained model"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Everything runs in .venv, made at the first call. Needs Python >= 3.11; another one: make demo PYTHON=python3.12"

$(STAMP): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "eugene needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into .venv: once, a few minutes (most of it is torch)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP) ## simulated promoters, start to end, into runs/demo: a page, figures, numbers (under 3 minutes)
	@$(BIN)/python use_cases/run.py jores21 --scale smoke --out runs/demo --fresh

test: check-export notebooks ## notebooks and package in step, every notebook run, then pytest (about twenty minutes)
	@MPLBACKEND=agg $(BIN)/python -m pytest tests

fuzz: $(STAMP) ## every reader on damaged files, those under EUGENE_DATA too: FOR=120 (seconds) SEED=0 ARGS='--formats bed,bam'; not in CI
	@$(BIN)/python tests/fuzz.py --seconds $(FOR) --seed $(SEED) --out runs/fuzz $(ARGS)

use-case: $(STAMP) ## one use case at one scale: CASE=jores21 SCALE=smoke|sample|full; finished training is reused
	@$(BIN)/python use_cases/run.py $(CASE) --scale $(SCALE) --out runs/$(CASE)-$(SCALE) $(ARGS)

bench: $(STAMP) ## speed beside other tools, into tests/benchmarks/results.{json,md,png}: ROUNDS=3 ARGS='--only one_hot'; more peers: tests/benchmarks/README.md
	@OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/python tests/benchmarks/run.py --rounds $(or $(ROUNDS),3) $(ARGS)

docs: $(STAMP) ## the book as a site, into _docs/index.html (installs the extra docs where it is missing)
	@$(BIN)/python -c 'import sphinx, myst_nb, furo' 2>/dev/null || $(BIN)/python -m pip install -e '.[$(EXTRAS),docs]'
	@$(BIN)/python docs/build.py $(ARGS)

readme: $(STAMP) ## README.md from nbs/index.ipynb
	@$(BIN)/python -m nbconvert --log-level WARN --to markdown --stdout nbs/index.ipynb \
	  --RegexRemovePreprocessor.enabled=True --RegexRemovePreprocessor.patterns='^#\|\s*(hide|export|default_exp)' \
	  | awk '/^```/ {inside = !inside; if (inside && $$0 == "```") $$0 = "```python"} {print}' | cat -s > $(README).new
	@mv $(README).new $(README)

export: $(STAMP) ## eugene/ from the notebooks
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean

check-export: $(STAMP) ## fails where eugene/ is not what the notebooks export, or a notebook is not clean
	@rm -rf .cache/export && mkdir -p .cache/export && cp -R settings.ini nbs .cache/export
	@cd .cache/export && $(BIN)/nbdev_export && $(BIN)/nbdev_clean
	@diff -r -x .ipynb_checkpoints nbs .cache/export/nbs && diff -r -x __pycache__ eugene .cache/export/eugene || { \
	  echo "Notebooks and package are out of step (< is the tree, > is what the notebooks give). Run: make export" >&2; exit 1; }
	@echo "Notebooks and package are in step"

notebooks: $(STAMP) ## run every notebook as a test (without the cells marked slow or gpu)
	@n=$$(find nbs -name '*.ipynb' -not -path '*/[_.]*' | wc -l | tr -d ' '); echo "Running $$n notebooks, $(WORKERS) at a time: a few minutes"; \
	OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/nbdev_test --n_workers $(WORKERS) --do_print | sed -n 's|^- Completed .*/nbs/|  ran nbs/|p' \
	  && echo "notebooks: $$n passed"

execute: $(STAMP) ## run every notebook anew and store what it shows (not cells marked slow or gpu); NB=nbs/00_core.ipynb for one
	@OMP_NUM_THREADS=1 $(BIN)/python tools/execute.py $(NB) && $(BIN)/nbdev_clean

build: $(STAMP) ## source distribution and wheel into dist/
	@$(BIN)/python -m build --no-isolation

clean: ## remove what can be made again (keeps .venv and runs)
	@rm -rf .cache build dist eugene.egg-info _proc _docs .pytest_cache .hypothesis
	@find nbs eugene tests use_cases tools -name __pycache__ -prune -exec rm -rf {} +
