# Each target does its own set-up: on a fresh machine Python 3.11, git and make are enough. See .ci/setup.

PYTHON := .venv/bin/python
# Side by side: most of the tests' time is waiting. Each process has servers of its own.
PYTEST := $(PYTHON) -m pytest -n 3 --dist worksteal

CHAOS := PYTHONPATH=tests $(PYTHON) -m chaos
BENCH := PYTHONPATH=tests $(PYTHON) -m benchmarks
MEASURED := .local/benchmarks
MINUTES := 60

.DEFAULT_GOAL := help
.PHONY: help demo test test-all chaos chaos-full chaos-test fuzz soak check bench bench-full bench-publish bench-dead-letters bench-data-life bench-producers bench-scaling profile kubernetes-alerts bench-environment environment servers settings-page release release-rehearsal

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: servers ## See it all work: two workers, traffic with errors, one worker killed, the books balanced
	@.venv/bin/usage-worker demo

test: servers ## Run the tests, except those that take long (about seven minutes)
	@$(PYTEST) -m "not slow and not chaos"

test-all: bench-environment ## Run all tests but the chaos suite, the benchmarks' own among them
	@$(PYTEST) -m "not chaos"

chaos: servers ## Break everything around the workers for 15 minutes: faults that chance draws, alone and several at once
	@rm -f .local/chaos/some.jsonl
	@$(CHAOS) --mixes 20 --minutes 15 --json .local/chaos/some.jsonl

RUNS := 3
chaos-full: servers ## The same whole: each fault RUNS times, and for docs/chaos.md (about an hour for each of RUNS, and 25 minutes for several at once)
	@rm -f .local/chaos/runs.jsonl
	@$(CHAOS) --runs $(RUNS) --mixes 50 --json .local/chaos/runs.jsonl --write

chaos-test: servers ## The same once each, as tests; and that it notices workers that are broken by hand (an hour)
	@$(PYTHON) -m pytest tests/chaos

fuzz: environment ## Damage a million messages and play them into a database, each held against the contract (about 20 minutes)
	@PYTHONPATH=tests $(PYTHON) -m chaos.fuzz --json .local/fuzz/summary.json

soak: bench-environment ## Load and random faults for MINUTES=60: are the books right, and memory, descriptors, tasks, connections flat?
	@PYTHONPATH=tests $(PYTHON) -m chaos.soak --minutes $(MINUTES) --json .local/chaos/soak.json --write

check: environment ## Lint and check types
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

bench: bench-environment ## Measure the rates, each beside its ceiling and its peers (under ten minutes)
	@$(BENCH) --json $(MEASURED)/headline.json --pictures $(MEASURED)/pictures

bench-full: bench-environment ## Measure everything: latency, memory, 25 million rows … (about an hour, 20 GB of disk)
	@$(BENCH) --full --json $(MEASURED)/full.json --pictures $(MEASURED)/pictures

bench-publish: ## Put the last full run into README.md and docs/
	@mkdir -p docs/benchmarks && cp $(MEASURED)/full.json docs/benchmarks/latest.json
	@$(BENCH).report docs/benchmarks/latest.json --write
	@$(BENCH).pictures docs/benchmarks/latest.json docs/pictures
	@PYTHONPATH=tests $(PYTHON) -m sizing

bench-dead-letters: bench-environment ## Measure the commands and the good events beside a million dead letters (ten minutes)
	@$(BENCH).dead_letters --json $(MEASURED)/dead-letters.json

bench-data-life: bench-environment ## Measure retention, erasure and partitions on 20 million rows beside a worker (20 minutes, 20 GB)
	@$(BENCH).data_life --json $(MEASURED)/data-life.json

bench-producers: bench-environment ## Measure what record() costs a service, beside a query, with servers stopped meanwhile (ten minutes)
	@$(BENCH).producers --json $(MEASURED)/producers.json --pictures $(MEASURED)/pictures

bench-scaling: ## Simulate the rule by which Kubernetes scales workers, for docs/kubernetes.md (seconds; needs the trace)
	@.ci/setup environment --group bench
	@$(BENCH).scaling_report --write

profile: bench-environment ## Measure where one event's microseconds go
	@$(BENCH) --only profile --json $(MEASURED)/profile.json --pictures $(MEASURED)/pictures

kubernetes-alerts: environment ## Put the alerts of deploy/prometheus into deploy/kubernetes
	@PYTHONPATH=tests $(PYTHON) -m manifests

settings-page: environment ## Put the settings of the code into docs/settings.md
	@PYTHONPATH=tests $(PYTHON) -m settings_page

release: environment ## Make what is published: both wheels and the image, of one version, each tried in a clean place
	@.ci/release

release-rehearsal: environment ## The same from unfinished work, to see whether it would go
	@.ci/release --rehearsal

bench-environment: servers
	@.ci/setup environment --group bench

environment:
	@.ci/setup environment

servers: environment
	@.ci/setup broker
