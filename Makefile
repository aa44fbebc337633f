# Everything here works on a fresh checkout, as root or as an ordinary user with sudo, and installs what it needs.
# What is fetched or built outside the checkout is kept in WEBHOOKS_CACHE (~/.cache/webhooks; root: /var/cache/webhooks).

PG ?= 15

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need, nothing else
	@scripts/setup

install: ## build for release and install for one server: make install PG_CONFIG=/path/to/pg_config
	@scripts/install "$(PG_CONFIG)"

demo: ## a cluster, a receiver, and verified deliveries between them (KEEP=1 leaves them running, PG=18)
	@demo/run $(PG) $(KEEP)

demo-stop: ## stop what make demo KEEP=1 left running
	@demo/stop

test: ## the whole suite, the one that CI runs
	@scripts/test

lint: ## format, clippy, shellcheck, documentation
	@scripts/lint

unit: ## unit and property tests, without a server
	@scripts/unit

pg-test: ## tests inside a server: make pg-test PG=15 [TEST=part of a name]
	@scripts/pg-test $(PG) $(TEST)

cluster-test: ## tests with real workers and receivers: make cluster-test PG=15 [ARGS='arguments of pytest']
	@scripts/cluster-test $(PG) $(ARGS)

ROUNDS ?= 50
faults: ## kill, fill, cut off and promote while events flow, the table in target/faults [ROUNDS=50] (PG=18)
	@scripts/faults $(PG) $(ROUNDS)

bench: ## speed beside graphile-worker and pg-boss, the table in target/bench (PG=18 for the other server)
	@bench/run $(PG)

SECONDS ?= 60
fuzz: ## look for bytes that break a law, SECONDS=60 for each target [TARGET=url]
	@scripts/fuzz $(SECONDS) $(TARGET)

deny: ## licences, duplicates and sources of all dependencies
	@scripts/deny

fmt: ## format the code
	@cargo fmt --all

clean: ## remove what was built in this checkout; the cache stays
	@scripts/clean

.PHONY: help setup install demo demo-stop test lint unit pg-test cluster-test faults bench fuzz deny fmt clean
