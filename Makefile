# Every task of the repository. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

# What the tests need beside Rust, kept outside the tree so that clones share it.
export LOCKGATE_TOOLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockgate/tools
export LOCKGATE_NATS_SERVER ?= $(LOCKGATE_TOOLS)/bin/nats-server
export LOCKGATE_KAFKA ?= $(LOCKGATE_TOOLS)/kafka
export LOCKGATE_KUBE ?= $(LOCKGATE_TOOLS)/kube
export LOCKGATE_PYTHON ?= $(LOCKGATE_TOOLS)/python/bin/python

.PHONY: help
help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Install what the tests need, once: nats-server 2.15, Kafka 4.3, Python clients, kcat
	@deploy/scripts/tools.sh

.PHONY: test
test: tools lint ## Everything CI runs: format, lints, each feature alone, tests, doc tests, examples
	cargo test --workspace --all-features
	@if [ -x "$(LOCKGATE_KUBE)/kube-apiserver" ]; then $(MAKE) test-kube; else \
		echo "not run: make test-kube, which builds the servers that it needs once"; fi

.PHONY: test-long
test-long: tools ## What is long and random: a thousand seeds of the simulation, forty of real processes, faults of bridges
	LOCKGATE_SEEDS=1000 LOCKGATE_PROCESS_SEEDS=40 cargo test -p lockgate --test handover
	LOCKGATE_BRIDGE_MINUTES=$${LOCKGATE_BRIDGE_MINUTES:-10} LOCKGATE_BRIDGE_SEED=$${LOCKGATE_BRIDGE_SEED:-$$RANDOM} \
		cargo test -p lockgate-bridge --test bridge killed -- --nocapture

.PHONY: test-kube
test-kube: tools ## The operator, the chart and KEDA's files on a real Kubernetes API server
	@deploy/scripts/kube.sh
	@$(LOCKGATE_PYTHON) deploy/scripts/kube/accepted.py
	cargo test --workspace --all-features --test kube -- --ignored --nocapture

.PHONY: e2e-kube
e2e-kube: chart ## The real image, installed by the chart on a Kubernetes of this machine; as root
	@deploy/scripts/kube.sh node
	@deploy/scripts/kube/e2e.py

.PHONY: lint
lint: ## Formatting, and lints as errors; the bus also without features and with each alone
	cargo fmt --all --check
	cargo clippy -p lockgate-bus --no-default-features -- -D warnings
	for feature in nats kafka disk testkit conformance fault; do \
		cargo clippy -p lockgate-bus --no-default-features --features $$feature -- -D warnings; \
	done
	cargo clippy --workspace --all-targets --all-features -- -D warnings

.PHONY: bench
bench: tools ## Benchmarks against the raw clients in the same run
	cargo bench -p lockgate-bus --all-features --bench ratios

.PHONY: bench-queue
bench-queue: tools ## How fast a queue is emptied: one busy key, and a thousand keys
	cargo bench -p lockgate --bench queue

.PHONY: bench-scale
bench-scale: tools ## Many subscriptions and keys: registrations, lists, idle load, restarts
	cargo bench -p lockgate --bench scale

.PHONY: bench-bridge
bench-bridge: tools ## A bridge both ways against a plain copy without guarantees, in the same run
	cargo bench -p lockgate-bridge --bench copy

.PHONY: doc
doc: ## The API documentation, warnings as errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

.PHONY: deny
deny: ## Licences, banned crates and sources of every dependency
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --all-features check licenses bans sources

.PHONY: chart
chart: tools ## The Helm chart: lint, and what it renders against deploy/chart/golden
	@deploy/scripts/chart.sh

.PHONY: image
image: ## The container image as an OCI archive, without a container engine
	@deploy/scripts/image.sh

.PHONY: nats-up
nats-up: tools ## Start a NATS server on 127.0.0.1:4222 (data and pid file in target/nats)
	@deploy/scripts/nats.sh up

.PHONY: nats-down
nats-down: ## Stop the server that `make nats-up` started
	@deploy/scripts/nats.sh down

.PHONY: clean-tools
clean-tools: ## Remove what `make tools` installed
	@deploy/scripts/tools.sh clean
