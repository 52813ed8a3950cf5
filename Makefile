# The targets are the steps of .ci/run. `make` alone lists them.

GO ?= go
# How long each fuzz target runs.
FUZZTIME ?= 10s
# How often the concurrency tests run.
COUNT ?= 100
# The peers that make interop-update runs.
PEERS ?= go,node,python
# Further flags of the benchmarks, for example BENCHFLAGS='-count=10 -cpu=2'.
BENCHFLAGS ?=

# The clone may belong to somebody else than who runs this; git then says nothing
# about it, and builds that ask it fail.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# What the pages are tried in.
CHROMIUM ?= $(firstword $(shell command -v chromium chromium-browser google-chrome google-chrome-stable))

# The modules beside the root one, which ./... leaves out; without those that hold
# no Go code of their own.
NESTED := $(sort $(patsubst %/go.mod,%,$(shell find . -mindepth 2 -name go.mod -not -path './.*')))
NESTED := $(strip $(foreach m,$(NESTED),$(if $(shell find $(m) -name '*.go' -print -quit),$(m))))

GOFMT = $(shell $(GO) env GOROOT)/bin/gofmt

# $(call everywhere,command) runs command in the root module and in each nested one.
everywhere = @set -e; for m in . $(NESTED); do echo "$$m: $(1)"; (cd $$m && $(1)); done

.DEFAULT_GOAL := help
.PHONY: help generate check generated fmt vet staticcheck cross test nested race fuzz bench golden concurrent soak examples browser interop interop-rust interop-update

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

generate: ## Generate types_gen.go from schema/
	GOWORK=off $(GO) generate ./...

check: generated fmt vet staticcheck cross ## Everything below that looks at the code without running it

generated: ## Fail if types_gen.go is not what schema/ says
	internal/tools/check-generated.sh

fmt: ## Fail if gofmt would change a file
	@files=$$(find . -name '*.go' -not -path './.*' -exec $(GOFMT) -l {} +) || exit 1; if [ -n "$$files" ]; then echo "not formatted:"; echo "$$files"; exit 1; fi

vet: ## go vet, in every module
	$(call everywhere,$(GO) vet ./...)

# It finds no packages, and no fault, where go.mod is not up to date: hence go list.
staticcheck: ## staticcheck, in every module
	$(GO) -C internal/tools build -o $(CURDIR)/bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	$(call everywhere,$(GO) list -deps -test ./... >/dev/null && $(CURDIR)/bin/staticcheck ./...)

cross: ## Build for Windows and macOS
	GOOS=windows $(GO) build ./...
	GOOS=darwin $(GO) build ./...

test: ## The tests, in every module, but for those that need Chromium
	$(GO) test ./...
	@$(MAKE) --no-print-directory nested

nested: ## The tests of the nested modules alone, but for those that need Chromium
	@set -e; for m in $(filter-out ./internal/browser,$(NESTED)); do echo "$$m: $(GO) test ./..."; (cd $$m && $(GO) test ./...); done

race: ## The tests with the race detector, in random order
	$(GO) test -race -shuffle=on -timeout 20m ./...

# At the end of its time Go 1.26 now and then fails a target that found nothing, with
# "context deadline exceeded"; 1.27 does not.
fuzz: export GOTOOLCHAIN := go1.27.3

fuzz: ## Each fuzz target for FUZZTIME (10s)
	@GO=$(GO) internal/tools/fuzz.sh $(FUZZTIME)

bench: ## The benchmarks, in every module
	$(call everywhere,$(GO) test -run NONE -bench . -benchmem $(BENCHFLAGS) ./...)

golden: ## Write the golden files anew; look at the difference before you commit it
	@set -e; for dir in $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -r -n1 dirname | sort -u); do \
	echo "$$dir: $(GO) test -update"; (cd $$dir && $(GO) test . -update); done

concurrent: ## The tests named ...Concurrent COUNT (100) times with the race detector
	$(GO) test -race -shuffle=on -timeout 60m -count=$(COUNT) -run 'Concurrent$$' ./...

# The worker serves until it is interrupted; its test does that.
EXAMPLES := $(filter-out examples/worker/main.go,$(wildcard examples/*/main.go))

examples: ## Run the programs that show the package at work
	@set -e; for e in $(patsubst %/main.go,%,$(EXAMPLES)); do echo "$$e: $(GO) run ./$$e"; $(GO) run ./$$e; done

browser: ## The tests of the pages, in headless Chromium
	@test -n "$(CHROMIUM)" || { echo "There is no Chromium here: install it (Debian: apt-get install chromium), or set CHROMIUM to its path." >&2; exit 1; }
	cd internal/browser && CHROMIUM=$(CHROMIUM) $(GO) test -count=1 -v ./...
	@echo "The screenshots are in bin/screenshots."

soak: ## The tests of promises at full scale: 10,000 reconnects, 200,000 messages
	$(GO) test -v -run '^TestR[0-9]' -soak -timeout 60m .

interop: ## Run the other SDKs for Node and Python on the development engine
	$(GO) -C internal/conformance run ./interop -peers go,node,python

interop-rust: ## The same with the SDK for Rust, which takes minutes to build
	$(GO) -C internal/conformance run ./interop -peers rust

interop-update: ## Write docs/interop.md anew, with the outcomes of PEERS (go,node,python)
	$(GO) -C internal/conformance run ./interop -peers $(PEERS) -update
