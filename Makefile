# The commands of this repository; `make help` lists them.

FEEDS ?= deploy/feeds/simulator.toml
DATA ?= data
HTTP ?= 127.0.0.1:8080
WS ?= 127.0.0.1:8081
OPS ?= 127.0.0.1:9100

PYTHON ?= python3
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release

SEEDS ?= 0..1000000

.DEFAULT_GOAL := help
.PHONY: help setup measured clients run test soak simulate check bench bench-store bench-history

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: setup ## Start everything: FEEDS=path DATA=dir HTTP= WS= OPS=address:port
	cargo run --locked --release --bin tickwire -- up \
	  --feeds "$(FEEDS)" --data "$(DATA)" --http "$(HTTP)" --ws "$(WS)" --ops "$(OPS)"

test: setup clients ## Run every test against a real broker; the whole system in a release build
	cargo test --locked --workspace --exclude tickwire
	cargo test --locked --release -p tickwire

soak: setup ## The fault tests at full length; TICKWIRE_SEED=number repeats one
	TICKWIRE_SOAK=1 cargo test --locked --release -p tickwire --test e2e -- \
	  --test-threads 1 --nocapture movement:: cluster:: rolling:: resume:: recorders::

# What is measured, and what it is compared with.
measured:
	cargo build --locked --release --bin tickwire --example axum-ws

bench: setup measured ## Measure a fanout beside an axum broadcaster and NATS' gateway, an ingest, the whole system; BENCH="--only a,b" is part of the first
	$(RELEASE)/tickwire bench fanout $(BENCH)
	$(if $(BENCH),,$(RELEASE)/tickwire bench ingest)
	$(if $(BENCH),,$(RELEASE)/tickwire bench system --seconds 20 --ramp)

bench-history: setup measured ## Measure how fast ranges of a million bars are answered, and what an export of a million trades costs
	$(RELEASE)/tickwire bench history $(BENCH)

bench-store: setup ## Measure how fast a recorder stores history, and beside it a plain COPY: BENCH="--rows 400000"
	cargo run --locked --release --example store -- $(BENCH)

simulate: ## Run random histories of readers, sessions and clients: SEEDS=from..to, or SEED=n to replay one
	TICKWIRE_SEEDS="$(or $(SEED),$(SEEDS))" cargo test --locked --release -p fanout --lib \
	  random_histories_leave_no_hole -- --nocapture

check: setup ## Format, lints and documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

setup: ## Check what a build needs, and install a pinned nats-server under .tools
	@command -v $(PYTHON) >/dev/null || { echo "setup: there is no $(PYTHON): install it with pip, on Debian with \`apt-get install python3 python3-pip\`" >&2; exit 1; }
	@$(PYTHON) deploy/setup.py

clients: setup ## Install the pinned clients of others that the tests let talk to Tickwire, under .tools
	@$(PYTHON) tests/interop/setup.py
