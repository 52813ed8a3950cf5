# .ci/run uses some of these targets as steps. `make` without a target lists them all.

GO ?= go
# Duration of each fuzz target.
FUZZTIME ?= 10s
# Number of runs of the concurrency tests.
COUNT ?= 100
# Peers for make interop-update.
PEERS ?= go,node,python
# Additional flags for the benchmarks, for example BENCHFLAGS='-count=10 -cpu=2'.
BENCHFLAGS ?=

# Additional flags for make rust-suite, for example RUSTSUITEFLAGS='-only state,stream -v'.
RUSTSUITEFLAGS ?=

# git refuses to read a clone that belongs to another user. Without this flag, builds would then
# fail to stamp version control data.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# Browser for the tests of the web pages.
CHROMIUM ?= $(firstword $(shell command -v chromium chromium-browser google-chrome google-chrome-stable))

# Nested modules that contain Go code; ./... does not include them.
NESTED := $(sort $(patsubst %/go.mod,%,$(shell find . -mindepth 2 -name go.mod -not -path './.*')))
NESTED := $(strip $(foreach m,$(NESTED),$(if $(shell find $(m) -name '*.go' -print -quit),$(m))))

GOFMT = $(shell $(GO) env GOROOT)/bin/gofmt

# $(call everywhere,command) runs command in the root module and in each nested one.
everywhere = @set -e; for m in . $(NESTED); do echo "$$m: $(1)"; (cd $$m && $(1)); done

.DEFAULT_GOAL := help
.PHONY: help generate tidy-iiigen recorded check generated fmt vet staticcheck cross test nested race fuzz bench bench-table bench-engine golden concurrent soak iiidev-soak rollout examples browser interop interop-rust interop-schemas interop-update filter-conformance filter-bench rust-suite

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

generate: ## Generate types_gen.go from schema/, and the recorded clients
	GOWORK=off $(GO) generate ./...
	@$(MAKE) --no-print-directory recorded

tidy-iiigen: ## Update the dependencies in cmd/iiigen/go.mod to those of go.mod
	cd cmd/iiigen && $(GO) mod edit -replace github.com/iii-go/iii=../.. && { GOWORK=off $(GO) mod tidy; status=$$?; $(GO) mod edit -dropreplace github.com/iii-go/iii; exit $$status; }

recorded: ## Regenerate the recorded clients of cmd/iiigen
	cd cmd/iiigen && $(GO) run ./internal/recorded/update

check: generated fmt vet staticcheck cross ## Run all static checks: generated, fmt, vet, staticcheck, cross

generated: ## Fail if types_gen.go differs from the generator's output for schema/
	internal/tools/check-generated.sh

fmt: ## Fail if gofmt would change a file
	@files=$$(find . -name '*.go' -not -path './.*' -exec $(GOFMT) -l {} +) || exit 1; if [ -n "$$files" ]; then echo "not formatted:"; echo "$$files"; exit 1; fi

vet: ## Run go vet in every module
	$(call everywhere,$(GO) vet ./...)

# If go.mod is out of date, staticcheck silently finds no packages, but go list fails.
staticcheck: ## Run staticcheck in every module
	$(GO) -C internal/tools build -o $(CURDIR)/bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	$(call everywhere,$(GO) list -deps -test ./... >/dev/null && $(CURDIR)/bin/staticcheck ./...)

cross: ## Build for Windows and macOS
	GOOS=windows $(GO) build ./...
	GOOS=darwin $(GO) build ./...

test: ## Run the tests of every module, except those that need Chromium
	$(GO) test ./...
	@$(MAKE) --no-print-directory nested

nested: ## Run the tests of the nested modules, except those that need Chromium
	@set -e; for m in $(filter-out ./internal/browser,$(NESTED)); do echo "$$m: $(GO) test ./..."; (cd $$m && $(GO) test ./...); done

race: ## Run the tests with the race detector, in random order
	$(GO) test -race -shuffle=on -timeout 20m ./...

# When the time is up, Go 1.26 occasionally fails a target with "context deadline exceeded"
# although it found nothing. Go 1.27 does not.
fuzz: export GOTOOLCHAIN := go1.27.3

fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@GO=$(GO) internal/tools/fuzz.sh $(FUZZTIME)

bench: ## Run the benchmarks of every module
	$(call everywhere,$(GO) test -run NONE -bench . -benchmem $(BENCHFLAGS) ./...)

golden: ## Rewrite the golden files; review the diff before committing
	@set -e; for dir in $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -r -n1 dirname | sort -u); do \
	echo "$$dir: $(GO) test -update"; (cd $$dir && $(GO) test . -update); done

concurrent: ## Run the tests named ...Concurrent COUNT (100) times with the race detector
	$(GO) test -race -shuffle=on -timeout 60m -count=$(COUNT) -run 'Concurrent$$' ./...

# examples/worker serves until it is interrupted, so only its test runs it.
EXAMPLES := $(filter-out examples/worker/main.go,$(wildcard examples/*/main.go))

examples: ## Run the example programs
	@set -e; for e in $(patsubst %/main.go,%,$(EXAMPLES)); do echo "$$e: $(GO) run ./$$e"; $(GO) run ./$$e; done

browser: ## Test the web pages in headless Chromium
	@test -n "$(CHROMIUM)" || { echo "Chromium not found: install it (Debian: apt-get install chromium) or set CHROMIUM to its path." >&2; exit 1; }
	cd internal/browser && CHROMIUM=$(CHROMIUM) $(GO) test -count=1 -v ./...
	@echo "The screenshots are in bin/screenshots."

soak: ## Test the guarantees at full scale: 10,000 reconnects, 200,000 messages
	$(GO) test -v -run '^TestR[0-9]' -soak -timeout 60m .

iiidev-soak: ## Measure the memory of iiidev at 900 HTTP requests per second for SOAKTIME (10m); Linux only
	$(GO) build -o bin/iiidev ./cmd/iiidev
	$(GO) run ./bench/iiidevsoak -iiidev bin/iiidev -for $(SOAKTIME)

rollout: ## Measure a rolling update of two replicas at 500 requests per second on engines 0.23 and 0.26
	$(GO) build -o bin/iiidev ./cmd/iiidev
	$(GO) build -o bin/rollout ./bench/rollout
	@set -e; for p in 0.23 0.26; do bin/rollout -protocol $$p; bin/rollout -protocol $$p -kill; bin/rollout -protocol $$p -slow 5s; done

interop: ## Run the Node and Python SDKs on the development engine
	$(GO) -C internal/conformance run ./interop -peers go,node,python

interop-rust: ## Run the Rust SDK on the development engine; the build takes minutes
	$(GO) -C internal/conformance run ./interop -peers rust

interop-schemas: ## Record the schemas of Node, Python and Rust workers for cmd/iiigen
	$(GO) -C internal/conformance run ./interop -peers node,python,rust -schemas
	@$(MAKE) --no-print-directory recorded
rust-suite: ## Run the Rust SDK's own integration tests on the development engine; the first build takes minutes
	$(GO) -C internal/conformance run ./rustsuite $(RUSTSUITEFLAGS)

interop-update: ## Regenerate docs/interop.md from the results of PEERS (go,node,python)
	$(GO) -C internal/conformance run ./interop -peers $(PEERS) -update

SOAKTIME ?= 10m

# Size and seed of the random corpus for filter-conformance.
CASES ?= 100000
SEED ?= 1

filter-conformance: ## Compare filters with the reference implementation over CASES (100000) random cases; needs cargo
	$(GO) -C internal/conformance run ./filter -cases $(CASES) -seed $(SEED)

# Workers to measure, and additional flags for bench/table. The table compares the first worker
# with each of the others.
WORKERS ?= -worker go=.cache/loadworker -worker bare=.cache/bareworker -worker rust=.cache/rust-worker/release/rust-worker
TABLEFLAGS ?=

bench-table: ## Measure the CPU time per invocation of WORKERS: this package, a bare WebSocket and the Rust SDK; needs cargo
	$(GO) build -o .cache/loadworker ./bench/loadworker
	$(GO) build -o .cache/bareworker ./bench/bareworker
	GOWORK=off $(GO) -C bench/jsonworker build -o $(CURDIR)/.cache/jsonworker .
	cd bench/rust-worker && cargo build --release --quiet --locked --target-dir ../../.cache/rust-worker
	$(GO) run ./bench/table $(WORKERS) $(TABLEFLAGS)

# Additional flags for bench/devengine, for example ENGINEFLAGS='-rows http -inflight 1'.
ENGINEFLAGS ?=

bench-engine: ## Measure the CPU time of iiidev per routed invocation and per HTTP request; Linux only
	$(GO) build -o bin/iiidev ./cmd/iiidev
	$(GO) build -o .cache/loadworker ./bench/loadworker
	$(GO) run ./bench/devengine $(ENGINEFLAGS)

filter-bench: ## Benchmark filters and the reference implementation in turn; needs cargo
	bench/filter-rs/compare.sh
