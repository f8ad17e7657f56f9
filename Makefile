# What a person types. Each works from any folder: make -C path/to/floodgate run
#
#   make run    everything in one: installs what is missing, builds, puts a template on sale
#   make test   installs what the tests need, and runs them all
#   make test-faults  one fault a round under load, a minute; FAULTS=full: three larger rounds of each; FAULT="killed before": those
#   make test-bites  each seeded bug, and the test that notices it
#   make load-check  runs each wrk and k6 script of loadtest/ for a short time; installs wrk, and k6 under target/
#   make contract  every call of both listeners against the OpenAPI document, a minute; installs schemathesis under target/
#   make bench  Floodgate beside its peers, the table of goals, some 16 minutes; QUICK=1: shows that it works
#   make explain  every read statement on 10 million coupons explained, with the plans kept; some minutes
#   make bench-wallet  a wallet page at 10 million coupons beside its bare statement
#   make bench-recover  an empty Redis given back from PostgreSQL beside COPY out of the same table; ROWS=10000000
#   make bench-redemption  lock + confirm beside pgbench on the same statements, some minutes
#   make check  formatting, lints and documentation, each warning an error
#   make sim    seeds of the deterministic simulation (SEEDS=100000), or one: make sim SEED=7, with TRACE=1 step by step
#   make pricing-exact  the best combination compared with enumeration on 100,000 carts, some minutes

# Further words: make run ARGS="--reset", make contract ARGS="--keep"
ARGS ?=
CARGO ?= $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)

.PHONY: run build install toolchain test test-faults test-bites load-check contract bench explain bench-wallet bench-recover bench-redemption check sim pricing-exact

run: install build
	exec ./target/release/floodgate demo $(ARGS)

build: toolchain
	$(CARGO) build --release --locked

install:
	./scripts/install-deps

test: install toolchain
	$(CARGO) test --workspace --locked

test-faults: install toolchain
	$(CARGO) test --locked --test it -- faults:: --nocapture

test-bites: install toolchain
	BITES=all $(CARGO) test --locked --test it -- bites:: --nocapture

load-check: install toolchain
	./scripts/install-load-tools
	LOAD_SCRIPTS=run $(CARGO) test --locked --test it -- load_scripts

# A quick run is of a debug build: its figures mean nothing, and a release build takes minutes.
bench: install toolchain
	-./scripts/install-load-tools --peers
ifdef QUICK
	$(CARGO) build --locked --workspace
	./target/debug/floodgate-bench run --quick $(ARGS)
else
	$(CARGO) build --locked --workspace --release
	./target/release/floodgate-bench run --out docs/bench $(ARGS)
endif

# Ten million coupons take 3 GB; both targets share them.
READS = --folder target/reads

explain: install toolchain
	$(CARGO) run --locked -p floodgate-loadtest --bin floodgate-reads -- explain $(READS) --save docs/plans/reads.txt $(ARGS)

bench-wallet: install build
	$(CARGO) run --release --locked -p floodgate-loadtest --bin floodgate-reads -- wallet $(READS) $(ARGS)

# Ten million coupons take 3 GB of disk for PostgreSQL, 2 GB for Redis' file and 1 GB of its memory.
ROWS ?= 1000000

bench-recover: install build
	$(CARGO) run --release --locked -p floodgate-loadtest --bin floodgate-reads -- recover \
	  --folder target/recover-$(ROWS) --rows $(ROWS) $(ARGS)

contract: install toolchain
	$(CARGO) build --locked
	./scripts/check-no-faults target/debug/floodgate
	./scripts/contract-check target/debug/floodgate $(ARGS)

bench-redemption: install build
	$(CARGO) run --release --locked -p floodgate-loadtest --bin floodgate-redemptions -- \
	  --folder target/bench-redemption --out target/bench-redemption.json $(ARGS)

check: toolchain
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

# Optimised, though no release build: a seed takes a third of the time, and what others built stays in use.
SEEDS ?= 10000
SIM_BUILD = --locked --workspace --test sim --config profile.dev.package.floodgate.opt-level=1

sim: toolchain
	SEED=$(SEED) SEEDS=$(SEEDS) FIRST=$(FIRST) TRACE=$(TRACE) $(CARGO) test $(SIM_BUILD) -- --nocapture

pricing-exact: toolchain
	FLOODGATE_PRICING_CASES=100000 $(CARGO) test --release --locked --lib the_search_finds -- --nocapture

toolchain:
	@command -v $(CARGO) >/dev/null || \
	  { echo "floodgate: cargo is not installed: install Rust 1.95 or newer (https://rustup.rs)" >&2; exit 1; }
