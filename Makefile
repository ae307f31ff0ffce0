# Everything a maintainer runs. `make` alone lists the targets.

SHELL       = /bin/bash
.SHELLFLAGS = -euo pipefail -c

GO        ?= go
# A count, not a time: until Go 1.27 a fuzz run that ends by time can fail without
# a finding (golang/go#75804).
FUZZTIME  ?= 100000x
BENCHTIME ?= 0.2s
COVERFILE ?= coverage.out

VERSION = $(shell sed -n 's/^const Version = "\(.*\)"$$/\1/p' version.go)

# The interpreter that make interop makes its virtual environment with: 3.11 or later.
PYTHON    ?= python3
VENV       = .venv

# Installs from the Python index, $(1) being the requirements. A download that fails is
# tried again, and what was downloaded by then is kept.
pip_install = for attempt in 1 2 3 4; do \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 --timeout 60 --ignore-requires-python --no-deps -r $(1) && break; \
		[ $$attempt -lt 4 ] || { echo "the Python packages cannot be installed"; exit 1; }; \
		echo "installing the Python packages failed; once more"; sleep $$((attempt * 5)); \
	done

# Packages in which goroutines meet: those that import what goroutines meet by.
RACE_PACKAGES = $(shell $(GO) list -f '{{$$p := .ImportPath}}{{range .Imports}}{{if or (eq . "sync") (eq . "sync/atomic") (eq . "golang.org/x/sync/errgroup")}}{{$$p}}{{"\n"}}{{end}}{{end}}' ./... | sort -u)

# Packages with tests that need a PostgreSQL server: files with the build tag postgres.
POSTGRES_PACKAGES = $(shell grep -rlE --include='*_test.go' '^//go:build .*postgres' --exclude-dir='.?*' . | xargs -r -n 1 dirname | sort -u)

# Modules of their own within the repository, other than the tools.
NESTED_MODULES = $(shell find . -mindepth 2 -name go.mod -not -path '*/testdata/*' -not -path './tools/*' -exec dirname {} \; | sort)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the asap binary into ./asap, static and without build paths
	CGO_ENABLED=0 $(GO) build -trimpath -o asap ./cmd/asap

.PHONY: test
test: ## run the tests, in random order
	$(GO) test -shuffle=on ./...

.PHONY: race
race: ## run the tests of packages with concurrent code under the race detector
	CGO_ENABLED=1 $(GO) test -race -short $(RACE_PACKAGES)

.PHONY: cover
cover: ## measure statement coverage, per package and in total, into coverage.out
	$(GO) test -coverpkg=./... -coverprofile=$(COVERFILE) ./...
	@$(GO) tool cover -func=$(COVERFILE) | awk '/^total:/ { print "statements covered in total:", $$3 }'

.PHONY: lint
lint: fmt-check ## check the format, then vet and lint everything
	$(GO) vet ./...
	$(GO) vet -tags postgres ./...
	$(GO) vet -tags heavy ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

.PHONY: fmt
fmt: ## format the Go files
	gofmt -w $$(find . -name '*.go' -not -path './.*')

.PHONY: fmt-check
fmt-check:
	@unformatted=$$(gofmt -l $$(find . -name '*.go' -not -path './.*')); \
	if [ -n "$$unformatted" ]; then echo "not formatted (run make fmt):"; echo "$$unformatted"; exit 1; fi

.PHONY: tidy-check
tidy-check: ## check that go.mod and go.sum are as go mod tidy leaves them, and the module cache is intact
	$(GO) mod tidy -diff
	$(GO) mod verify

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (100000x each)
	@binary=$$(mktemp); trap 'rm -f "$$binary"' EXIT; \
	for module in . difftest; do \
	(cd $$module && $(GO) list -f '{{$$p := .}}{{range .TestGoFiles}}{{$$p.ImportPath}} {{$$p.Dir}} {{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$$p.ImportPath}} {{$$p.Dir}} {{.}}{{"\n"}}{{end}}' ./...) | \
	while read -r package dir file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$dir/$$file"); do \
			if [ "$$package" != "$${built:-}" ]; then (cd "$$dir" && $(GO) test -c -fuzz=Fuzz -o "$$binary" .) || exit 1; built=$$package; fi; \
			echo "--- fuzz $$package $$target"; \
			(cd "$$dir" && "$$binary" -test.run='^$$' -test.fuzz="^$$target\$$" -test.fuzztime=$(FUZZTIME) -test.fuzzminimizetime=5s \
				-test.fuzzcachedir="$$($(GO) env GOCACHE)/fuzz/$$package") || exit 1; \
		done; \
	done || exit 1; done

.PHONY: docs
docs: ## write docs/reference anew from the code
	UPDATE_DOCS=1 $(GO) test -count=1 -run TestReference ./cmd/asap

.PHONY: bench
bench: ## measure every row of docs/benchmarks.md beside its peers, in 25 minutes, and write the page (BENCH="-quick", BENCH="-rows P1,P5")
	@cd bench && $(GO) run . $(BENCH)

.PHONY: microbench
microbench: ## run the benchmarks of the packages, briefly (set BENCHTIME for longer runs)
	$(GO) test -run='^$$' -bench=. -benchmem -benchtime=$(BENCHTIME) ./...

.PHONY: long
long: ## the long run, for a release: 200 kills, 60 s of overload, 10,000 random histories of budgets, tasks and corrections
	ASAP_TEST_KILLS=200 $(GO) test -count=1 -timeout 30m -run 'Kill' ./internal/node ./internal/sqlite
	ASAP_TEST_OVERLOAD_SECONDS=60 $(GO) test -tags heavy -count=1 -timeout 15m -v -run '^TestFaultOverload$$' ./internal/node
	$(GO) test -count=1 -timeout 60m -run 'LimitsBesideAModel' ./internal/node -rapid.checks=10000
	$(GO) test -count=1 -timeout 60m -run 'TestMemory/Histories' ./internal/sqlite -rapid.checks=10000

.PHONY: postgres
postgres: ## run the tests that need PostgreSQL, on a server of their own (needs its programs, uses none that runs)
	$(GO) test -tags postgres -count=1 $(POSTGRES_PACKAGES)

.PHONY: hostile
hostile: ## do to a node what hostile clients and failing systems do (Linux; raises its open files, installs filters of system calls)
	$(GO) test -tags heavy -count=1 -timeout 15m -run '^Test(Hostile|Fault)' ./internal/node

.PHONY: modules
modules: ## tidy-check, vet and test the modules nested in the repository
	@for dir in $(NESTED_MODULES); do echo "--- module $$dir"; (cd $$dir && $(GO) mod tidy -diff && $(GO) vet ./... && $(GO) test ./...) || exit 1; done

# The Python release asks for 3.13 and works with 3.11 too.
.PHONY: interop
interop: $(VENV)/installed build ## run against the Python release, both ways (needs Python; installs into .venv)
	@$(VENV)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 13))' || \
		echo "note: asap-protocol 1.3.0 requires Python 3.13; installed on $$($(VENV)/bin/python --version) with that requirement ignored"
	@cd interop && $(GO) run . -asap ../asap -python ../$(VENV)/bin/python

.PHONY: openapi
openapi: $(VENV)/installed build ## hold a node to its own OpenAPI document, with schemathesis (needs Python, as interop)
	@cd interop && $(GO) run . -run openapi -asap ../asap -python ../$(VENV)/bin/python

$(VENV)/installed: interop/requirements.txt deploy/monitoring/requirements.txt
	$(PYTHON) -m venv --clear $(VENV)
	@$(call pip_install,interop/requirements.txt)
	@$(call pip_install,deploy/monitoring/requirements.txt)
	@touch $@

.PHONY: check
check: lint tidy-check test race modules interop openapi dashboard postgres hostile ## what CI runs: format, linters, go.mod, tests, race detector, nested modules, the Python release, our OpenAPI document, the dashboard, PostgreSQL, hostile input, a short run of every fuzz target
	$(MAKE) --no-print-directory fuzz FUZZTIME=10000x

.PHONY: sbom
sbom: build ## write what is in ./asap into asap.cdx.json, as CycloneDX
	@cd tools && $(GO) vet ./sbom && $(GO) test ./sbom
	@(cd tools && $(GO) run ./sbom ../asap) >asap.cdx.json
	@echo "asap.cdx.json: $$(grep -c '"purl"' asap.cdx.json) components"

# The second build has another directory and an empty cache, so nothing of either can
# be in the binary.
.PHONY: reproducible
reproducible: build ## build the binary again, elsewhere and from nothing, and compare the bytes
	@scratch=$$(mktemp -d); trap 'chmod -R u+w "$$scratch"; rm -rf "$$scratch"' EXIT; mkdir "$$scratch/elsewhere"; \
	tar -c --exclude=./.venv --exclude=./dist --exclude=./asap --exclude=./asap-data . | tar -x -C "$$scratch/elsewhere"; \
	(cd "$$scratch/elsewhere" && CGO_ENABLED=0 GOCACHE="$$scratch/cache" $(GO) build -trimpath -o asap ./cmd/asap); \
	cmp asap "$$scratch/elsewhere/asap" && sha256sum asap

# VULNDB=file:///path is a copy of https://vuln.go.dev, for machines that do not reach it.
.PHONY: vuln
vuln: ## look for known vulnerabilities in what is built (needs the Go vulnerability database)
	$(GO) tool -modfile=tools/vuln/go.mod govulncheck $(if $(VULNDB),-db $(VULNDB)) ./...

.PHONY: dashboard
dashboard: $(VENV)/installed ## load the Grafana dashboard with Grafana's own types (needs Python, as interop)
	$(VENV)/bin/python deploy/monitoring/check.py

.PHONY: version
version: ## print the version
	@echo $(VERSION)

PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: release
release: ## build the release into dist/: static binaries of every platform, their SBOMs, checksums, the container image
	rm -rf dist && mkdir dist
	@for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/} suffix=; [ $$os != windows ] || suffix=.exe; \
		echo "--- $$platform"; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -o dist/asap-$(VERSION)-$$os-$$arch$$suffix ./cmd/asap || exit 1; \
		(cd tools && $(GO) run ./sbom ../dist/asap-$(VERSION)-$$os-$$arch$$suffix) >dist/asap-$(VERSION)-$$os-$$arch.cdx.json || exit 1; \
	done
	cd dist && sha256sum asap-* >SHA256SUMS
	$(MAKE) --no-print-directory image

dist/asap-$(VERSION)-linux-%: FORCE
	CGO_ENABLED=0 GOOS=linux GOARCH=$* $(GO) build -trimpath -o $@ ./cmd/asap

.PHONY: FORCE
FORCE:

.PHONY: image
image: dist/asap-$(VERSION)-linux-amd64 dist/asap-$(VERSION)-linux-arm64 ## build the container image into dist/image, an OCI layout, without a container engine
	@cd deploy && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null) $(GO) run ./image \
		-amd64 ../dist/asap-$(VERSION)-linux-amd64 -arm64 ../dist/asap-$(VERSION)-linux-arm64 -out ../dist/image

.PHONY: image-check
image-check: image ## start the image's binary as its user, on a read-only root file system (needs root)
	deploy/image/check.sh dist/image
