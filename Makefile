# `make` lists the targets. Each can be run twice.
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# Compose v2 where there is one, else v1; `make COMPOSE=docker-compose …` decides otherwise.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
KAFKA := $(COMPOSE) -f docker-compose.kafka.yml
TOPIC ?= queueing.transactions
# The benchmarks measure our services on it as well where it is: `sh bench/pypy.sh .pypy` makes it.
PYPY ?= $(wildcard .pypy/python)
# Compose v1 does not read it in .env.
export COMPOSE_IGNORE_ORPHANS := true

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- the pipeline, with Docker ---

.PHONY: engine
engine:
	@docker info >/dev/null 2>&1 || { echo "No Docker engine answers: start Docker, or install it first. Without it 'make demo' and 'make test' run all the same."; exit 1; }

.PHONY: network
network: engine ## Create the network that both compositions share
	@docker network inspect kafka-network >/dev/null 2>&1 || docker network create kafka-network

.PHONY: network-rm
network-rm: engine ## Remove that network
	@! docker network inspect kafka-network >/dev/null 2>&1 || docker network rm kafka-network

.PHONY: kafka
kafka: network ## Start ZooKeeper and the broker, and wait until they are healthy
	$(KAFKA) up -d
	@echo "Waiting for the broker ..."; for i in $$(seq 120); do docker inspect -f '{{.State.Health.Status}}' $$($(KAFKA) ps -q broker) | grep -q '^healthy' && exit; sleep 1; done; echo "The broker is not healthy after two minutes: see 'make logs'."; exit 1

.PHONY: up
up: kafka ## Start everything: network, cluster, generator and detector
	$(COMPOSE) up -d --build

.PHONY: down
down: engine ## Stop everything and remove the containers; the records stay
	$(COMPOSE) down
	$(KAFKA) down

.PHONY: logs
logs: engine ## Follow the logs of the generator and the detector
	$(COMPOSE) logs -f --tail 20

.PHONY: ps
ps: engine ## List the containers and their health
	@$(KAFKA) -f docker-compose.yml ps

.PHONY: topics
topics: engine ## Describe the topics and show how far the detector is in them
	$(KAFKA) exec -T broker kafka-topics --bootstrap-server localhost:9092 --describe --exclude-internal
	$(KAFKA) exec -T broker kafka-consumer-groups --bootstrap-server localhost:9092 --describe --group fraud-detector

.PHONY: consume
consume: engine ## Print a topic until Ctrl-C: make consume TOPIC=streaming.transactions.fraud
	$(KAFKA) exec broker kafka-console-consumer --bootstrap-server localhost:9092 --topic $(TOPIC) --isolation-level read_committed --from-beginning

.PHONY: scale
scale: engine ## Run so many detectors, which share the partitions: make scale N=2
	$(COMPOSE) up -d --no-recreate --scale detector=$(or $(N),$(error make scale N=2: give N the number of detectors)) detector

.PHONY: clean
clean: engine ## Remove everything: containers, the records in their volumes, our images, the network
	@echo "Removing the containers, the volumes with all records, the images of the services, and the network."
	$(COMPOSE) down --volumes --rmi local && $(KAFKA) down --volumes
	@docker image prune --force --filter label=streaming-fraud-detection >/dev/null # those that a newer build replaced
	@$(MAKE) --no-print-directory network-rm

# --- with Python alone: no Docker, no Java ---

$(BIN)/ready: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.13 …"; exit 1; }
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --require-hashes -r requirements-dev.txt
	@touch $@

.PHONY: demo
demo: $(BIN)/ready ## Run the pipeline on an embedded Kafka, watch it live, and check every record: make demo DURATION=20
	@$(BIN)/python -m embedded prepare && $(BIN)/python -m demo --duration $(or $(DURATION),20)

.PHONY: watch
watch: $(BIN)/ready ## The same live view on the running compositions, through localhost:29092
	@$(BIN)/python -m demo watch --broker localhost:$(or $(KAFKA_HOST_PORT),29092)

.PHONY: screenshot
screenshot: $(BIN)/ready ## Make the picture of the live view in the README again
	@$(BIN)/python -m demo --duration 20 --svg docs/demo.svg

.PHONY: test
test: $(BIN)/ready ## Run every test that this machine can run, and name those it cannot
	$(BIN)/pytest

.PHONY: test-faults
test-faults: $(BIN)/ready ## Inflict every fault many times, and count every record: make test-faults ROUNDS=10 SEED=1
	ROUNDS=$(or $(ROUNDS),10) SEED=$(SEED) $(BIN)/pytest tests/faults

.venv-bench/ready: bench/requirements.txt
	$(PYTHON) -m venv .venv-bench && .venv-bench/bin/pip install --quiet --require-hashes -r bench/requirements.txt
	@touch $@

.PHONY: bench bench-latency bench-generator bench-scale
bench: .venv-bench/ready ## Drain a topic with the detector and with its peers, and write the README's section
	.venv-bench/bin/python -m bench throughput $(if $(PYPY),--pypy $(PYPY)) && .venv-bench/bin/python -m bench report
bench-latency: .venv-bench/ready ## The time from a record's creation to its output, ours and the peers'
	.venv-bench/bin/python -m bench latency $(if $(PYPY),--pypy $(PYPY)) && .venv-bench/bin/python -m bench report
bench-generator: .venv-bench/ready ## The rate asked for and the rate delivered
	.venv-bench/bin/python -m bench generator $(if $(PYPY),--pypy $(PYPY)) && .venv-bench/bin/python -m bench report
bench-scale: .venv-bench/ready ## One to four detectors on as many partitions
	.venv-bench/bin/python -m bench scale && .venv-bench/bin/python -m bench report

.PHONY: lint
lint: $(BIN)/ready ## Check format, style, types, and the workflow in .github
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	for service in generator detector; do (cd $$service && ../$(BIN)/mypy --config-file ../pyproject.toml *.py) || exit 1; done; $(BIN)/mypy embedded demo && $(BIN)/mypy bench --exclude bench/peers
	@if command -v actionlint >/dev/null; then actionlint; elif command -v go >/dev/null; then go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.7; else echo "actionlint is left out: neither it nor Go is installed"; fi

.PHONY: lock
lock: $(BIN)/ready ## Pin the newest allowed versions, with hashes, in the requirements files
	for service in generator detector; do echo 'kafka-python[crc32c]==3.0.12' | $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock' --output-file $$service/requirements.txt -; done
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --group dev --no-annotate --custom-compile-command 'make lock' --output-file requirements-dev.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock' --output-file bench/requirements.txt bench/requirements.in
