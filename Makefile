# Everything is installed in .venv, from the lock files; nothing outside this folder is changed.
PYTHON ?= python3.11
PIP_VERSION := 26.3
PORT ?= 5000
JOBS ?= 2
ARGS ?=

BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
TEXT := .venv/.text-installed
WEB := .venv/.web-installed
DEV := .venv/.dev-installed

# The stages that DVC starts say `python`.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1
# DVC's own place for it is one that every user of the machine may write to, and there are pickles in it.
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site
# Stages on the same cores: threads that spin while they wait would starve each other.
export OMP_WAIT_POLICY := PASSIVE
# Without bytecode files every stage and every Ray worker would compile its imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup repro web cluster ui test test-slow coverage lint docs reference lock clean
.DELETE_ON_ERROR:

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "Variables: PYTHON=$(PYTHON) (a Python 3.11), PORT=$(PORT) (of make ui), JOBS=$(JOBS) (processes of make test), ARGS= (more arguments of dvc or pytest)."

$(RUNTIME): requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no $(PYTHON) here: install Python 3.11," \
		"or name one, as in 'make setup PYTHON=python3'" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip==$(PIP_VERSION)
	@echo "Installing the packages of requirements.lock into .venv: minutes, and 3 GB of disk."
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Its own requirements would bring a second way to run it, and its file has to be the very one.
$(TEXT): $(RUNTIME) requirements-text.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-text.lock
	@touch $@

# gradio forbids the newest Pillow and tomlkit, which it works with: its own requirements would bring older ones.
$(WEB): $(RUNTIME) requirements-web.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-web.lock
	@touch $@

$(DEV): $(RUNTIME) $(WEB) requirements-dev.lock
	$(BIN)/python -m pip install --quiet -r requirements.lock -r requirements-dev.lock
	@touch $@

setup: $(RUNTIME) $(TEXT) ## install everything that runs the pipeline, into .venv
# A source archive has no git work tree for DVC to ask.
	@[ -e .git ] || grep -qs no_scm .dvc/config.local || $(BIN)/dvc config --local core.no_scm true

repro: setup ## run what has changed of the pipeline, then print the table
	@$(BIN)/python -m pipelines.params params.yaml
	$(BIN)/dvc repro $(ARGS)
	@$(BIN)/genmodels compare
	@$(BIN)/python -m pipelines.costs params.yaml
	@printf '%s\n' '' \
		'The report:            out/main/report/report.html' \
		'Pictures from text:    out/main/report_captions/report.html' \
		'Every run, in MLflow:  make ui' \
		'Change one number:     edit params.yaml and run make repro again: only what depends on it runs,' \
		'                       or . .venv/bin/activate && dvc exp run -S train.vae.latent=8'

web: setup $(WEB) ## install what `genmodels serve` needs too: 94 MB

cluster: setup ## install what pipelines/cluster needs too
	$(BIN)/python -m pip install --quiet -r requirements.lock -r requirements-cluster.lock

ui: setup ## open the tracked runs in MLflow, on loopback
	$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///mlflow.db

test: setup $(DEV) ## run the quick tests
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

test-slow: setup $(DEV) ## run the slow tests too
	$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

# A second pass runs the compiled loops as Python, line by line, in those of their tests that are quick enough so.
LOOPS := bipartite contrastive_step lifted random_numbers single_flip variates

coverage: setup $(DEV) ## run the quick tests, and say which branches of genmodels/ they miss
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)
	NUMBA_DISABLE_JIT=1 PYTHONPATH=tests $(BIN)/coverage run -m pytest -p interpreted $(LOOPS:%=tests/test_%.py)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=92

lint: $(DEV) ## check style, types, who imports whom, and the links of docs/
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m zensical build --strict

docs: $(DEV) ## build the pages of docs/ into site/, where no link may lead nowhere
	$(BIN)/python -m zensical build --strict --clean
	@echo "The pages: site/index.html"

reference: $(DEV) ## write docs/reference and docs/results.md anew, from schemas, parser and tables
	$(BIN)/python -m pipelines.reference

# torch pins its own CUDA wheels: left out, the locks serve machines without a GPU as well.
PIN := sed 's/+[[:alnum:].]*$$//' | grep -vE '^(cuda-|nvidia-|triton==)'
PINNED_BY := every package, pinned, for CPython 3.11. Written by `make lock` from pyproject.toml.

lock: ## write the lock files anew, with the newest releases that fit together
	rm -rf .scratch/lock
	"$(PYTHON)" -m venv .scratch/lock
	.scratch/lock/bin/python -m pip install --quiet --upgrade pip==$(PIP_VERSION) setuptools
	.scratch/lock/bin/python -m pip install --quiet -e .
	.scratch/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | $(PIN) > .scratch/lock/runtime
	.scratch/lock/bin/python -m pip install --quiet -e '.[web]'
	.scratch/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | $(PIN) | \
		awk -F== 'NR == FNR { known[$$1]; next } !($$1 in known)' .scratch/lock/runtime - > .scratch/lock/web
	{ echo '# What genmodels serve needs besides requirements.lock: $(PINNED_BY)'; cat .scratch/lock/web; } \
		> requirements-web.lock
	.scratch/lock/bin/python -m pip uninstall --quiet --yes -r .scratch/lock/web
	.scratch/lock/bin/python -m pip install --quiet -r .scratch/lock/runtime
	.scratch/lock/bin/python -m pip install --quiet -e '.[dev]'
	.scratch/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | $(PIN) > .scratch/lock/all
	{ echo '# What genmodels runs on: $(PINNED_BY)'; cat .scratch/lock/runtime; } > requirements.lock
	{ echo '# What tests and lint need besides requirements.lock: $(PINNED_BY)'; \
		grep -vxFf .scratch/lock/runtime .scratch/lock/all; } > requirements-dev.lock
	.scratch/lock/bin/python -m pip install --quiet -e '.[dev,cluster,cluster-dev]'
	.scratch/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable | $(PIN) > .scratch/lock/more
	{ echo '# What pipelines/cluster and its tests need besides requirements.lock: $(PINNED_BY)'; \
		grep -vxFf .scratch/lock/all .scratch/lock/more; } > requirements-cluster.lock
	rm -rf .scratch/lock

clean: ## remove caches and build files; .venv, results and checkpoints stay
	rm -rf build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
