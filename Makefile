# `make run` and `make test` need nothing but Python 3.11 or newer; everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?= --evals 26 --pop 8

.PHONY: run test check format clean help

run: $(VENV)/.ready ## evolve the default lab: installs, prepares the data, runs (more: make run ARGS="RUN_DIR --evals 100")
	$(BIN)/python -m evo.run $(ARGS)

test: check ## everything that CI runs: check, then the whole suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready ## bring the style in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and caches; runs/ and the prepared data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(VENV)/.ready: pyproject.toml scripts/setup_env.sh
	PYTHON=$(PYTHON) scripts/setup_env.sh $(VENV)
	@touch $@
