# The few commands. Each works on a fresh clone with nothing set: scripts/services finds, starts or installs
# PostgreSQL and RabbitMQ, and stops what it started.

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz-api bench bench-lanes compare sqlx-prepare

# Builds use the committed .sqlx, whatever database happens to be named in the environment.
export SQLX_OFFLINE = true

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## show an event's way: arrival, retries, dead letter, replay, history
	scripts/services run -- scripts/demo

test: ## run all tests against real servers
	scripts/services run -- scripts/test

check: ## check format, lints, docs, licences, .sqlx, scripts
	cargo fmt --all --check
	@# Clippy, with the queries checked by a real database; it needs no broker.
	AMQP_URL=amqp://unused scripts/services run -- scripts/sqlx-prepare --check
	@# There are no examples: with them the dependencies are those that clippy has compiled, down to their features.
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --lib --examples --document-private-items
	scripts/check-licences
	if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; fi
	scripts/test-services

fuzz-api: ## test the API against its document with many examples and a new seed; 15 minutes or more
	XT_FUZZ_EXAMPLES=$${XT_FUZZ_EXAMPLES:-300} XT_FUZZ_SEED=$${XT_FUZZ_SEED:-$$(date +%s)} \
		scripts/services run -- scripts/test --test it -- --nocapture schemathesis_finds

bench: ## measure load and pages of a long history, release build; needs a quiet machine
	scripts/services run -- cargo bench --locked --bench load --bench history

bench-lanes: ## measure hostile receivers, limits and outages beside healthy receivers, release build; half an hour
	scripts/services run -- cargo bench --locked --bench lanes

compare: ## compare the speed of two builds: OLD=path NEW=path; 10 minutes or more, needs a quiet machine
	@test -n "$(OLD)" && test -n "$(NEW)" || { echo 'call: make compare OLD=path NEW=path' >&2; exit 2; }
	scripts/services run -- benches/compare "$(OLD)" "$(NEW)"

sqlx-prepare: ## update .sqlx after a change to a query or a migration
	scripts/services run -- scripts/sqlx-prepare
