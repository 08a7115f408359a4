# Every command of this project. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

TOOLS := target/tools
WEB := web/dist/operator.css
export ROLLCALL_TOOLS := $(CURDIR)/$(TOOLS)

PROFILE ?= release
SOAK ?= 2m
BENCH ?=
FUZZ_SECONDS ?= 20
# Most tests wait most of the time, so run more of them than there are processors.
TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
FUZZ_TARGETS := handshake names directory mesh session_id token
CARGO_FUZZ := 0.13.1
CARGO_DENY := 0.20.2
VALE := v3.21.0

.PHONY: help build run test test-all test-valkey failover soak fuzz bench micro check page-types prose check-deploy advisories dist tools clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(WEB) ## build the program, with the pages: PROFILE=dist optimises it as far as possible, which takes minutes longer
	cargo build --locked --profile $(PROFILE) $(if $(filter release,$(PROFILE)),--no-default-features)

run: build ## run four nodes behind https://localhost:5009
	@exec target/release/rollcall dev

test: tools $(WEB) ## install what the tests need, and run all tests
	RUST_TEST_THREADS=$(TEST_THREADS) cargo test --locked --workspace
	npm --prefix tests run --silent all

test-all: test check-deploy soak failover test-valkey ## also run the long tests: repeated cluster and fault tests, failovers, soak, wider searches
	for round in $$(seq 10); do cargo test --locked --test cluster -- roll_calls:: joins:: node_changes::; done
	for round in $$(seq 3); do cargo test --locked --test faults; done
	ROLLCALL_THOROUGH=1 cargo test --locked -p rollcall-model
	ROLLCALL_THOROUGH=1 cargo test --locked --test simulation

failover: tools ## kill the Sentinel master and a Cluster master under load, and judge every answer
	cargo test --locked --test faults failover:: -- --ignored --test-threads 2

test-valkey: tools ## run the directory and failover tests with Valkey; unpacks it if it is not installed (Debian 12: from backports)
	server=$$(tests/valkey) && export ROLLCALL_REDIS_SERVER=$$server && \
	  cargo test --locked --test directory && cargo test --locked --test faults failover:: -- --ignored --test-threads 2

soak: tools ## churn with faults, and judge every answer: SOAK=10m; ROLLCALL_SEED=… repeats a run
	ROLLCALL_SOAK=$(SOAK) cargo test --locked --test soak

fuzz: $(TOOLS)/bin/cargo-fuzz ## fuzz the parsers of external input, each target for FUZZ_SECONDS (20)
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target; \
	  PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" cargo fuzz run -s none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10; \
	done

bench: $(WEB) bench/peers/node/node_modules/.package-lock.json ## compare with the alternatives: BENCH="--rooms 10,100 --rounds 3"
	cargo build --locked --profile dist -p rollcall -p rollcall-bench
	@if command -v go > /dev/null; then \
	  go -C bench/peers/centrifuge build -o $(CURDIR)/target/dist/centrifuge-peer .; \
	else echo "go is missing: the report will list centrifuge as missing"; fi
	cargo build --locked --profile dist --manifest-path bench/peers/socketioxide/Cargo.toml --target-dir target || \
	  echo "cannot build the socketioxide peer: the report will list it as missing"
	target/dist/rollcall-bench $(BENCH)

micro: ## run the micro-benchmarks
	cargo bench --locked

check: tools prose $(TOOLS)/bin/cargo-deny-$(CARGO_DENY) $(WEB) web/types/node_modules/.package-lock.json ## check formatting, lints, docs, prose, protocol, page types, and the licences of dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	$(TOOLS)/python/bin/buf lint
	npm --prefix web/types run --silent check
	npm --prefix web run --silent check
	$(TOOLS)/bin/cargo-deny-$(CARGO_DENY) --locked check licenses bans sources

page-types: web/types/node_modules/.package-lock.json ## generate web/src/api.d.ts after a change of the JSON that the pages read
	ROLLCALL_BLESS=1 cargo test --locked --lib http::openapi
	npm --prefix web/types run --silent generate

prose: $(TOOLS)/bin/vale-$(VALE) ## check the English of documents, comments, logs and errors: PROSE="src/auth docs" selects paths
	tests/prose/check $(PROSE)

check-deploy: tools ## check the files in deploy/ with the programs that read them: image, compose file, balancer, manifests, units
	tests/deploy/check

docs/CONFIGURATION.md: build ## regenerate the reference of flags and variables
	target/release/rollcall man --markdown > $@

advisories: $(TOOLS)/bin/cargo-deny-$(CARGO_DENY) ## check for known vulnerabilities of dependencies; uses the network
	$(TOOLS)/bin/cargo-deny-$(CARGO_DENY) --locked check advisories

dist: $(WEB) ## pack dist/rollcall-<version>-<target>.tar.gz, static (musl) where possible: TARGET=… selects the target
	deploy/dist

tools: tests/node_modules/.package-lock.json ## install the programs that checks and tests need, or list the missing ones
	tests/prepare

clean: ## remove all build results and installed tools
	rm -rf target dist web/dist web/node_modules web/types/node_modules tests/node_modules bench/peers/node/node_modules artifacts fuzz/target fuzz/corpus fuzz/artifacts

$(WEB): web/node_modules/.package-lock.json web/build.mjs $(wildcard web/src/*.ts web/src/*/*)
	npm --prefix web run --silent build

# Fuzzing without sanitizers (`-s none`) works on a stable toolchain.
$(TOOLS)/bin/cargo-fuzz:
	cargo install cargo-fuzz --locked --version $(CARGO_FUZZ) --root $(TOOLS)

# Built without optimisation: the build is slow, and the run takes a second.
$(TOOLS)/bin/cargo-deny-$(CARGO_DENY):
	CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	  CARGO_PROFILE_RELEASE_DEBUG=0 cargo install cargo-deny --locked --version $(CARGO_DENY) --root $(TOOLS)
	mv $(TOOLS)/bin/cargo-deny $@

# vale needs a newer Go than the tests; with GOTOOLCHAIN=auto, Go downloads it.
$(TOOLS)/bin/vale-$(VALE):
	GOTOOLCHAIN=auto GOBIN=$(CURDIR)/$(TOOLS)/bin go install github.com/vale-cli/vale/v3/cmd/vale@$(VALE)
	mv $(TOOLS)/bin/vale $@

%/node_modules/.package-lock.json: %/package-lock.json %/package.json
	npm --prefix $* ci --no-fund --no-audit
	@touch $@
