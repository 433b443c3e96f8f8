# Everything runs in .venv, made from pyproject.toml (the one place that pins torch).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install serve test lint format bench-step clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

serve: install            ## serve the bundled demo model on 127.0.0.1:8000
	$(BIN)/loopserve serve models/demo

test: lint                ## lint, types and the whole test suite
	$(BIN)/pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-step: .venv/installed-test   ## step time and KV bytes, parallel against sequential
	$(BIN)/python -m benchmarks.step_time

clean:
	rm -rf .venv
