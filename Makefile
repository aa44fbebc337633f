# Everything here works on a fresh checkout, as root or as an ordinary user with sudo, and installs what it needs.
# What is fetched or built outside the checkout is kept in WEBHOOKS_CACHE (~/.cache/webhooks; root: /var/cache/webhooks).
#
# Which tests belong where:
#   make test     whatever a change can break: lints, unit and property tests, tests in a server, on clusters, over HTTP,
#                 in a browser, and the short form of the faults. CI runs it.
#   make fresh    whatever a newcomer meets: this checkout on a bare Debian 12, from the clone to the first delivery, then
#                 make install and make uninstall. CI runs it after make test, as root. Both stay under 80 minutes.
#   make faults   whatever takes an hour: many rounds of each fault, the soak, the long tests. Before a release.

PG ?= 15

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need, nothing else
	@scripts/setup

install: ## build for release and install for one server: make install PG_CONFIG=/path/to/pg_config
	@scripts/install "$(PG_CONFIG)"

uninstall: ## remove from one server what make install put there: make uninstall PG_CONFIG=/path/to/pg_config
	@scripts/uninstall "$(PG_CONFIG)"

demo: ## a cluster, a receiver, and verified deliveries between them (KEEP=1 leaves them running, PG=18)
	@demo/run $(PG) $(KEEP)

demo-stop: ## stop what make demo KEEP=1 left running
	@demo/stop

serve: ## the REST API in the background: a cluster, PostgREST and nginx (PG=18); . target/serve/env sets what it needs
	@serve/run $(PG)

serve-stop: ## stop what make serve started
	@serve/stop

test: ## the whole suite, which CI runs
	@scripts/test

fresh: ## a newcomer's first minutes on a bare Debian 12, measured (needs root or sudo)
	@scripts/fresh

lint: ## format, clippy, shellcheck, released scripts, documentation
	@scripts/lint

unit: ## unit and property tests, without a server
	@scripts/unit

pg-test: ## tests inside a server: make pg-test PG=15 [TEST=part of a name]
	@scripts/pg-test $(PG) $(TEST)

cluster-test: ## tests with real workers and receivers: make cluster-test PG=15 [ARGS='arguments of pytest']
	@scripts/cluster-test $(PG) $(ARGS)

rest-test: ## tests of the REST API: make rest-test PG=15 [POSTGREST=/path/to/postgrest] [ARGS='arguments of pytest']
	@scripts/rest-test $(PG) $(ARGS)

portal-test: ## tests of the page in Chromium: make portal-test PG=15 [ARGS='arguments of pytest']
	@scripts/portal-test $(PG) $(ARGS)

ROUNDS ?= 50
faults: ## everything that happens to a server while events flow, soak included, the table in target/faults [ROUNDS=50 MINUTES=10] (PG=18)
	@MINUTES=$(MINUTES) scripts/faults $(PG) $(ROUNDS)

bench: ## speed beside graphile-worker and pg-boss, the table in target/bench (PG=18 for the other server)
	@bench/run $(PG)

bench-paths: ## time of the pure hot paths alone: signing, canonical JSON, filters, rate window
	@scripts/setup build
	@cargo bench -p webhooks_core --bench paths

MINUTES ?= 10
soak: ## the long benchmarks, MINUTES=10 each, the table in target/bench/soak.md
	@MINUTES=$(MINUTES) bench/run $(PG) snapshot retention

SECONDS ?= 60
fuzz: ## look for bytes that break a law, SECONDS=60 for each target [TARGET=url]
	@scripts/fuzz $(SECONDS) $(TARGET)

freeze: ## what CREATE EXTENSION runs now, as a release: make freeze VERSION=0.1.0
	@scripts/freeze "$(VERSION)"

deny: ## licences, duplicates and sources of all dependencies
	@scripts/deny

fmt: ## format the code
	@cargo fmt --all

clean: ## remove what was built in this checkout; the cache stays
	@scripts/clean

.PHONY: help setup install uninstall demo demo-stop serve serve-stop test fresh lint unit pg-test cluster-test rest-test portal-test faults bench bench-paths soak fuzz freeze deny fmt clean
