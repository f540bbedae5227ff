# `make demo` and `make test` are all the set-up there is: each creates the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test nightly lint format bench clean

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[embeddings]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[all,test,lint,bench]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## the main job: store a conversation, recall from it, explain each hit
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev  ## every test, with branch coverage; starts the servers that this machine can have
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=95
	$(BIN)/coverage report --include='src/polymem/core/*,src/polymem/contracts/*,src/polymem/layers/*' --skip-covered --fail-under=100

nightly: $(VENV)/.dev  ## the same with the long crash, power-cut and property runs
	POLYMEM_NIGHTLY=1 $(BIN)/python -m pytest -n auto --dist worksteal --timeout 7200

lint: $(VENV)/.dev  ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tests/typing
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## let ruff write the code in one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## the figures of the README (alone on the machine, please)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
