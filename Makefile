# make run    sets up .venv, pretrains a policy on the shipped response surfaces, evaluates it on held-out tasks
# make test   sets up .venv, checks style and types, runs the tests
# Variables:  VENV=.venv  PYTHON=python3.12  RUN=runs/NAME  COLLECTIONS=svm  FOLD=1  SEEDS=0,1  TRIALS=50
#             TRAIN_ARGS="--learner.updates 100"  PYTEST_ARGS="-k bank"

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/$(shell date +%Y%m%d-%H%M%S)
# One process a core but at most four; the tests of a file stay together, as they share what is slow to make.
PYTEST_WORKERS ?= -n auto --maxprocesses 4 --dist loadfile
PYTEST_ARGS ?=
# TEST_EXTRAS=test leaves the compared libraries out; their tests are skipped then.
TEST_EXTRAS ?= test,baselines,export,ray
INSTALLED := pyproject.toml $(wildcard constraints/*.txt)

# What `make run` trains and evaluates.
COLLECTIONS ?= mlp
SPLIT ?= kfold5
FOLD ?= 0
SEEDS ?= 0,1,2,3
METHODS ?= policy,policy_ensemble,random,mean_list,portfolio,gp_ei,prior_ei
TRIALS ?= 25
TRAIN_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint types format bench clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

$(VENV)/.installed-run: $(INSTALLED)
	@scripts/setup_env.sh $(VENV)
	@touch $@

$(VENV)/.installed-test: $(INSTALLED)
	@scripts/setup_env.sh $(VENV) $(TEST_EXTRAS)
	@touch $@ $(VENV)/.installed-run

run: $(VENV)/.installed-run
	@run="$(RUN)"; set -e; \
	$(BIN)/python -m hyprl_jax train --collections $(COLLECTIONS) --split $(SPLIT) --fold $(FOLD) \
	    --seed $(SEEDS) --env.trials $(TRIALS) $(TRAIN_ARGS) --out "$$run"; \
	$(BIN)/python -m hyprl_jax evaluate "$$run" --collections $(COLLECTIONS) --split $(SPLIT) --fold $(FOLD) \
	    --methods $(METHODS) --trials $(TRIALS) --out "$$run/evaluation"

test: lint types
	@scripts/setup_browser.sh
	$(BIN)/python -m pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

test-all: lint types
	@scripts/setup_browser.sh
	$(BIN)/python -m pytest -m "slow or not slow" $(PYTEST_WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-run
	$(BIN)/python -m hyprl_jax bench

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
