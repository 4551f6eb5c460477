# minigate: `make run` starts all of it in one process, `make test` tests all of it.
# Both need Go and nothing else; the tests install what they talk to (Debian).

GO      ?= go
BIN     := bin/minigate
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Tools at pinned versions, built from source by the go command: nothing to install.
BUF    := $(GO) tool -modfile=.ci/buf.mod buf
TOOL   := $(GO) tool -modfile=.ci/tools.mod
DLV    := $(GO) tool -modfile=.ci/delve.mod dlv
HTML   := -modfile=.ci/docs.mod ./.ci/docs

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/minigate
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) .

.PHONY: run
run: build ## Run everything in one process: gate, workers, bus, Redis, SQLite
	$(BIN) dev

.PHONY: start
start: build ## Run the same in the background; DEVFLAGS are for minigate dev
	.ci/dev start $(DEVFLAGS)

.PHONY: stop
stop: ## Stop what runs in the background, and wait for its end
	.ci/dev stop

.PHONY: restart
restart: build ## Stop and start it, with what was changed
	.ci/dev restart $(DEVFLAGS)

.PHONY: logs
logs: ## Show its output and what is added to it
	.ci/dev logs

.PHONY: debug
debug: ## Run it in the debugger delve; ARGS are for minigate (dev); PKG is another program
	@mkdir -p .cache
	$(DLV) debug --output .cache/debug $(or $(PKG),.) $(DLVFLAGS) -- $(or $(ARGS),$(if $(PKG),,dev))

.PHONY: test
test: ## Start RabbitMQ, MariaDB, Redis, etcd and SMTP where the environment names none, and run all tests
	deploy/services.sh run $(GO) test -race -count=1 -timeout 12m $(TESTFLAGS) ./...

.PHONY: check
check: ## Format, vet, lint, generated code that is up to date, links in the documents
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not formatted:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck -checks "$$(grep -v '^#' .ci/staticcheck.checks | paste -sd,)" ./...
	$(GO) mod tidy -diff
	$(BUF) lint proto
	.ci/proto --check
	$(GO) vet $(HTML)
	$(GO) test $(HTML)
	$(GO) run $(HTML)

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -w $$(git ls-files '*.go')

.PHONY: proto
proto: ## Generate Go from proto/ with pinned tools
	.ci/proto

.PHONY: docs
docs: docs-configuration ## Make HTML of README.md, CHANGELOG.md and docs/, in .cache/docs
	$(GO) run $(HTML)

.PHONY: docs-configuration
docs-configuration: ## Write docs/configuration.md from the settings in the code
	@mkdir -p .cache
	$(GO) run . config --markdown >.cache/configuration.md
	cp .cache/configuration.md docs/configuration.md

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	.ci/fuzz $(or $(FUZZTIME),30s)

# Only RabbitMQ is needed: the others are said to be there already.
.PHONY: bench
bench: build ## Measure this machine, into the tables of docs/performance.md
	MINIGATE_TEST_MYSQL=none MINIGATE_TEST_REDIS=none MINIGATE_TEST_ETCD=none MINIGATE_TEST_PROMETHEUS=none MINIGATE_TEST_SMTP=none MINIGATE_TEST_MAILDIR=none \
		deploy/services.sh run sh -c '$(BIN) bench --full --rabbitmq "$$MINIGATE_TEST_RABBITMQ" --document docs/performance.md $(BENCHFLAGS)'

.PHONY: bench-million
bench-million: build ## Hold a million sessions for ten minutes, into docs/performance.md
	MINIGATE_TEST_MYSQL=none MINIGATE_TEST_REDIS=none MINIGATE_TEST_ETCD=none MINIGATE_TEST_PROMETHEUS=none MINIGATE_TEST_SMTP=none MINIGATE_TEST_MAILDIR=none \
		deploy/services.sh run sh -c '$(BIN) bench --million --rabbitmq "$$MINIGATE_TEST_RABBITMQ" --document docs/performance.md $(BENCHFLAGS)'

.PHONY: microbench
microbench: ## Run the benchmarks of all packages
	deploy/services.sh run $(GO) test -run '^$$' -bench . -benchmem ./...

# COMMIT stands in the image's labels, and in what `minigate version` prints.
COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
IMAGE   = MINIGATE_DEPLOY_IMAGE=$(1) MINIGATE_DEPLOY_VERSION=$(2) MINIGATE_DEPLOY_COMMIT=$(COMMIT) docker compose --progress plain build gate

.PHONY: docker
docker: ## Build the image minigate:dev, which is every service
	$(call IMAGE,minigate:dev,$(VERSION))

.PHONY: up
up: docker ## Start everything in containers, and wait until it is healthy
	docker compose up --detach --wait

.PHONY: down
down: ## Stop and remove the containers; their data stay
	docker compose down

.PHONY: test-compose
test-compose: ## Test compose.yaml on containers: scale, roll out, kill, down and up
	$(call IMAGE,minigate:test,$(VERSION))
	$(call IMAGE,minigate:test-next,$(VERSION)-next)
	$(GO) vet -tags containers ./pkg/containers
	$(GO) test -tags containers -count=1 -timeout 30m -v ./pkg/containers

.PHONY: clean
clean: ## Remove what was built, and the data of `make run`
	deploy/services.sh down
	.ci/dev stop
	rm -rf bin .cache .dev
