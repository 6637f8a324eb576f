# Each target does its own set-up: on a fresh machine Python 3.11, git and make are enough. See .ci/setup.

PYTHON := .venv/bin/python
# Side by side: most of the tests' time is waiting. Each process has servers of its own.
PYTEST := $(PYTHON) -m pytest -n 3 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check bench environment servers

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: servers ## See it all work: two workers, traffic with errors, one worker killed, the books balanced
	@.venv/bin/usage-worker demo

test: servers ## Run the tests, except those that take long (under five minutes)
	@$(PYTEST) -m "not slow"

test-all: servers ## Run all tests
	@$(PYTEST)

check: environment ## Lint and check types
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

bench: servers ## Measure the rates, each beside its ceiling
	@.ci/setup environment --group bench
	@PYTHONPATH=tests $(PYTHON) -m benchmarks

environment:
	@.ci/setup environment

servers: environment
	@.ci/setup broker
