# `make` lists the targets. Each can be run twice.
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# Would lead Python and pip elsewhere than to our packages; and Compose v2 refuses it beside what .env says of orphans.
unexport PYTHONSAFEPATH PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTHONINSPECT PIP_USER PIP_TARGET PIP_PREFIX COMPOSE_REMOVE_ORPHANS
# Ctrl-C ends a target without a word of make's: what it has interrupted has said what there is to say. With -p, bash leaves
# BASH_ENV, CDPATH and functions of the user's shell alone.
SHELL := bash
.SHELLFLAGS := -p -c 'trap "exit 0" INT; eval "$$0"'
# Compose v2 where there is one, else v1; `make COMPOSE=docker-compose …` decides otherwise.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
# Options besides the tutorial's two compositions: make up KRAFT=1 MONITORING=1 …, and likewise for all targets.
SWITCHES := KRAFT THREE_BROKERS SECURE MONITORING GRAFANA ALERTS WEB
switch = $(if $(filter-out 0 no false,$($1)),$(if $(filter 1 yes true,$($1)),1,$(error $1=$($1): give it 1, yes or true, or to switch it off 0, no, false or nothing)))
$(foreach name,$(SWITCHES),$(eval override $(name) := $(call switch,$(name))))
$(if $(GRAFANA),$(eval override MONITORING := 1))
# Compose's own name for this folder. Where nothing is left of the folder's, ours, with a number for this path.
FOLDER := $(shell pwd | sed 's|.*/||' | LC_ALL=C tr A-Z a-z | LC_ALL=C tr -cd 'a-z0-9_-' | sed 's/^[_-]*//')
IN_ENV := $(shell sed -nE "s/^(export +)?COMPOSE_PROJECT_NAME=[\"']?([a-z0-9_-]*).*/\2/p" .env 2>/dev/null | tail -n 1)
override COMPOSE_PROJECT_NAME := $(or $(COMPOSE_PROJECT_NAME),$(IN_ENV),$(FOLDER),fraud-$(shell pwd | cksum | cut -d ' ' -f 1))
export COMPOSE_PROJECT_NAME
# docs/clusters.md has the clusters, each with volumes of its own.
CLUSTER = $(if $(THREE_BROKERS),compose/three-brokers.yml,$(if $(KRAFT),compose/kraft.yml,docker-compose.kafka.yml))
CLUSTERS = docker-compose.kafka.yml compose/kraft.yml compose/three-brokers.yml
KAFKA = $(COMPOSE) --project-directory . -f $(CLUSTER) $(if $(SECURE),-f compose/secure.kafka.yml $(if $(THREE_BROKERS),-f compose/secure.three-brokers.yml,$(if $(KRAFT),-f compose/secure.kraft.yml)))
OVERLAYS = $(if $(MONITORING),-f compose/monitoring.yml) $(if $(GRAFANA),-f compose/grafana.yml) $(if $(ALERTS),-f compose/alerts.yml) $(if $(SECURE),-f compose/secure.yml $(if $(ALERTS),-f compose/secure.alerts.yml) $(if $(MONITORING),-f compose/secure.monitoring.yml))
SERVICES = $(COMPOSE) --project-directory . -f docker-compose.yml $(OVERLAYS)
ALL_SERVICES = $(COMPOSE) --project-directory . -f docker-compose.yml -f compose/monitoring.yml -f compose/grafana.yml -f compose/alerts.yml -f compose/redrive.yml
# For `docker ps`: our containers of a service, whose name follows.
OURS = --quiet --filter label=com.docker.compose.project=$(COMPOSE_PROJECT_NAME) --filter label=com.docker.compose.oneoff=False --filter label=com.docker.compose.service
# Whether the broker that is here, running or not, is another checkout's of the same name, or another cluster's.
LABEL = id=$$(docker ps --all $(OURS)=broker) && [ -n "$$id" ] && label=$$(docker inspect -f '{{index .Config.Labels "com.docker.compose.project.$(1)"}}' $$id)
IS_ELSEWHERE = $(call LABEL,working_dir) && [ -n "$$label" ] && ! [ "$$label" -ef . ]
IS_OTHER = $(call LABEL,config_files) && ! grep -q '$(CLUSTER)' <<<"$$label"
# The topics and the group that Compose has named to the detector.
NAMES = docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' $$(docker ps --all $(OURS)=detector | head -n 1) 2>/dev/null | grep -E '^([A-Z_]*_TOPIC|CONSUMER_GROUP)='
# Our brokers that run, and where they answer on this machine.
RUNNING = for name in broker broker-2 broker-3; do docker ps $(OURS)=$$name; done
LOOK = env $$($(NAMES)) compose/look.sh "$$($(RUNNING) | head -n 1)"
ADDRESSES = $$(for id in $$($(RUNNING)); do docker port $$id 29092; done | sed -n 's/^127.0.0.1:/localhost:/p' | paste -sd , - | grep . || echo localhost:29092)
# The containers of others that have a broker's name on the network: half of all connections would go there.
STRANGERS = for id in $$(docker ps -q --no-trunc --filter network=kafka-network); do $(KAFKA) ps -q | grep -q $$id || docker inspect -f '{{.Name}} {{range (index .NetworkSettings.Networks "kafka-network").Aliases}}{{.}} {{end}}' $$id | grep -E '[ /](broker|broker-2|broker-3) ' | cut -d ' ' -f 1 | cut -c 2-; done
# Compose v1 does not read it in .env.
export COMPOSE_IGNORE_ORPHANS := true
# In a folder whose name is not ASCII, Compose cannot build many images at once.
ifneq ($(shell pwd | LC_ALL=C tr -d '\000-\177'),)
export COMPOSE_BAKE ?= false
endif
# A program on this machine as one of the users that compose/users.sh makes.
AS = env $$($(NAMES)) $(if $(SECURE),KAFKA_SECURITY_PROTOCOL=SASL_SSL KAFKA_SASL_MECHANISM=SCRAM-SHA-512 KAFKA_SSL_CAFILE=compose/secrets/ca.crt KAFKA_SASL_PLAIN_USERNAME=$(1) KAFKA_SASL_PLAIN_PASSWORD_FILE=compose/secrets/$(1)-password)
ifneq ($(THREE_BROKERS),)
PORT := $(if $(SECURE),9093,9092)
export KAFKA_BROKER_URL ?= broker:$(PORT),broker-2:$(PORT),broker-3:$(PORT)
endif

# Compose mounts it under this name. As it stands, with its spaces and dollars.
ifdef ALERT_URLS_FILE
QUOTED := '$(subst ','\'',$(value ALERT_URLS_FILE))'
override ALERT_URLS_FILE := $(shell case $(QUOTED) in (/*) ;; (*) printf '%s/' "$$PWD" ;; esac; printf '%s' $(QUOTED))
export ALERT_URLS_FILE
endif

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
	@others=$$(docker ps -a --filter network=kafka-network --format '{{.Names}}' | tr '\n' ' '); [ -z "$$others" ] || echo "The network stays, as others use it: $$others"; [ -n "$$others" ] || ! docker network inspect kafka-network >/dev/null 2>&1 || docker network rm kafka-network

.PHONY: kafka
kafka: network $(if $(SECURE),certs) ## Start the cluster, and wait until it answers
	@! { $(IS_ELSEWHERE); } || { echo "The containers of the checkout in $$label have this one's name, $(COMPOSE_PROJECT_NAME): 'make down' there first, or give this one a name, COMPOSE_PROJECT_NAME=..., for volumes of its own."; exit 1; }
	@! { $(IS_OTHER); } || { echo "The broker of another cluster is here: 'make down' first. $(CLUSTER) is a cluster of its own; the other one's records stay in its volumes."; exit 1; }
	@others=$$($(STRANGERS)); [ -z "$$others" ] || { echo "Another project has a broker on kafka-network: $$others. The services would find both by that name: end that one first, such as by 'docker stop $$others', or by 'make down' in its folder."; exit 1; }
	@compose/start.sh "$(KAFKA)"

.PHONY: certs
certs: ## Make what SECURE=1 needs, where it is absent: a private CA, the broker's certificate, passwords
	@compose/certs.sh

.PHONY: settings
settings:
	@case $$KAFKA_BROKER_URL in localhost:* | 127.*) echo "KAFKA_BROKER_URL is $$KAFKA_BROKER_URL: in a container that is the container itself. Leave it out: unset KAFKA_BROKER_URL"; exit 1 ;; esac
	@[ -z "$(if $(ALERTS),$$ALERT_URLS_FILE)" ] || [ -f "$$ALERT_URLS_FILE" ] || { echo "ALERT_URLS_FILE is $$ALERT_URLS_FILE: there is no such file"; exit 1; }

.PHONY: up
up: settings kafka ## Start everything: network, cluster, generator and detector
	@detectors=$$(docker ps --all $(OURS)=detector | wc -l); compose/start.sh "$(SERVICES)" --build --scale detector=$$((detectors > 1 ? detectors : 1))
	@printf '%s\n' 'It runs. To look at it, and to end it:' \
	  '  make consume TOPIC=$(or $(FRAUD_TOPIC),streaming.transactions.fraud) N=5' '  make topics' '  make watch$(if $(SECURE), SECURE=1)' \
	  $(if $(MONITORING),'  http://localhost:$(or $(DASHBOARD_HOST_PORT),8080)  the page' '  http://localhost:$(or $(PROMETHEUS_HOST_PORT),9090)  Prometheus') \
	  $(if $(GRAFANA),'  http://localhost:$(or $(GRAFANA_HOST_PORT),3000)  Grafana') \
	  $(if $(ALERTS),'  make attack$(if $(SECURE), SECURE=1)') '  make down'

.PHONY: down
down: engine ## Stop everything and remove the containers; the records stay
	$(SERVICES) down
	COMPOSE_IGNORE_ORPHANS=false $(KAFKA) down --remove-orphans # also what was started with other variables

.PHONY: logs
logs: engine ## Follow the logs of the generator and the detector
	$(SERVICES) logs -f --tail 20

.PHONY: ps
ps: engine ## List the containers and their health
	@$(KAFKA) -f docker-compose.yml $(OVERLAYS) ps

.PHONY: topics
topics: engine ## Describe the topics and show how far the detector is in them
	@$(LOOK) topics

.PHONY: consume
consume: engine ## Print a topic until Ctrl-C, or N records of it: make consume TOPIC=streaming.transactions.fraud N=5
	@$(LOOK) consume "$(TOPIC)" "$(N)"

.PHONY: scale
scale: engine ## Run several detectors, which share the partitions: make scale N=2
	$(SERVICES) up -d --no-recreate --scale detector=$(or $(N),$(error make scale N=2: give N the number of detectors)) detector
	@$(LOOK) share "$(N)"

.PHONY: attack
attack: override ALERTS := 1
attack: engine .venv-watch/bin/ready ## Send a ring of 50 accounts through what `make up ALERTS=1` runs, and show the alert
	@$(call AS,attack) .venv-watch/bin/python -m demo.attack --broker "$(ADDRESSES)"
	@$(SERVICES) logs --tail 100 alerter | grep ' told ' | tail -1

REDRIVE = $(COMPOSE) --project-directory . -f docker-compose.yml -f compose/redrive.yml $(if $(SECURE),-f compose/secure.yml -f compose/secure.redrive.yml)
.PHONY: redrive
redrive: engine ## Say which dead letters would go back to the input, and with WRITE=1 write them: make redrive REASON='not JSON'
	$(REDRIVE) build -q redrive && $(REDRIVE) run --rm $$([ -t 0 ] || echo -T) redrive

.PHONY: clean
clean: engine ## Remove everything: containers, the records in their volumes, our images, the network
	@echo "Removing the containers, the volumes with all records, the images of the services, and the network."
	$(ALL_SERVICES) down --volumes && for file in $(CLUSTERS); do COMPOSE_IGNORE_ORPHANS=false $(COMPOSE) --project-directory . -f $$file down --volumes --remove-orphans || exit; done
	@# Each version of Compose has a name of its own for an image, and those that a newer build replaced have none.
	@images=$$(for name in $$($(ALL_SERVICES) config --services); do docker images --format '{{.Repository}}:{{.Tag}}' --filter reference=$(COMPOSE_PROJECT_NAME)-$$name --filter reference=$(COMPOSE_PROJECT_NAME)_$$name; done); [ -z "$$images" ] || docker rmi $$images >/dev/null
	@docker image prune --force --filter label=streaming-fraud-detection >/dev/null
	@$(MAKE) --no-print-directory network-rm
	@echo "What is left: the images that were pulled, which 'docker image prune --all' removes where nobody uses them."
	@left=$$(ls -d compose/secrets .venv* "$${XDG_CACHE_HOME:-$$HOME/.cache}/streaming-fraud-detection" 2>/dev/null); [ -z "$$left" ] || echo "And certificates and passwords, Python's packages, Kafka's jars: rm -r" $$left

# --- with Python alone: no Docker, no Java ---

.venv/bin/ready: requirements-dev.txt
.venv/bin/demo: embedded/requirements.txt
.venv-watch/bin/ready: demo/requirements.txt
.venv-bench/bin/ready: bench/requirements.txt
# An update of Python can leave an environment without one, or without its packages: then it is made anew.
STALE := $(foreach env,.venv .venv-watch .venv-bench,$(if $(wildcard $(env)/bin),$(if $(shell $(env)/bin/python -I -c 'import pip; print(1)' 2>/dev/null),,$(env))))
.PHONY: stale
$(foreach env,$(STALE),$(env)/bin/ready $(env)/bin/demo): stale
.venv/bin/ready .venv/bin/demo .venv-watch/bin/ready .venv-bench/bin/ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older, or does not start: make PYTHON=python3.13 …"; exit 1; }
	$(PYTHON) -m venv $(if $(filter $(@:/bin/$(@F)=),$(STALE)),--clear) $(@:/bin/$(@F)=) && $(@D)/pip install --quiet --require-hashes -r $<
	@touch $@

.PHONY: demo
demo: $(or $(wildcard $(BIN)/ready),$(BIN)/demo) ## Run the pipeline on an embedded Kafka, watch it live, and check every record: make demo DURATION=20, or WEB=1 for the page, ALERTS=1 for a ring of accounts
	@$(BIN)/python -m embedded prepare && $(BIN)/python -m demo --duration $(or $(DURATION),$(if $(WEB),0,20)) $(if $(WEB),--web $(or $(WEB_PORT),8080)) $(if $(ALERTS),--alerts)

.PHONY: watch
watch: engine ## The same live view on the running compositions, through localhost:29092
	@[ "$$(docker ps $(OURS)=detector)" ] || { echo "No detector runs here: 'make up' first."; exit 1; }
	@$(MAKE) --no-print-directory .venv-watch/bin/ready
	@$(call AS,dashboard) .venv-watch/bin/python -m demo watch --broker "$(ADDRESSES)"

.PHONY: screenshot
screenshot: $(BIN)/ready ## Make the pictures of the live view and of the page again, in six minutes; the latter needs Chromium
	@$(BIN)/python -m embedded prepare && $(BIN)/python -m demo.pictures

.PHONY: test test-all
test: $(BIN)/ready ## What to run after a change: every guarantee in its short form, on Kafka 4, without Docker
	@echo "The units, and every guarantee in short on a real Kafka 4; it takes five to ten minutes. 'make test-all' runs the rest."
	$(BIN)/python -m embedded archive && $(BIN)/pytest -n 3 -m "not (zookeeper or docker or browser or long)"
test-all: $(BIN)/ready ## Every test that this machine can run, on both lines of Kafka; it names those it cannot
	@echo "Everything that this machine can run: Kafka 4, Kafka 3.9 with ZooKeeper, Docker, a browser. It takes the better part of an hour."
	$(BIN)/python -m embedded archive && $(BIN)/python -m embedded archive --zookeeper && $(BIN)/pytest -n 3 --max-worker-restart 3

.PHONY: test-faults
test-faults: $(BIN)/ready ## Inflict every fault many times, and count every record: make test-faults ROUNDS=10 SEED=1
	ROUNDS=$(or $(ROUNDS),10) SEED=$(SEED) $(BIN)/pytest -o faulthandler_timeout=0 tests/faults tests/compositions/test_restarts.py

.PHONY: test-steps
test-steps: $(BIN)/ready ## Inflict the faults on the four programs of docs/steps, and write the table of docs/from-the-tutorial.md: make test-steps STEP=3 ROUNDS=10
	for step in $(or $(STEP),1 2 3 4); do STEP=$$step $(BIN)/pytest -o faulthandler_timeout=0 -m "from_step and not zookeeper" tests/faults/test_faults.py || exit; done
	$(BIN)/python -m bench report

BENCH = .venv-bench/bin/python -m bench
BENCH_OPTIONS = $(if $(BEFORE),--before $(BEFORE))

.PHONY: bench bench-latency bench-long bench-memory bench-scale bench-failover
bench: .venv-bench/bin/ready ## Drain a topic with the detector and its peers, and write docs/performance.md: make bench BEFORE=main~5
	$(BENCH) throughput $(BENCH_OPTIONS) && $(BENCH) report
bench-latency: .venv-bench/bin/ready ## The cold start, then the age of records at 1,000/s and the CPU time it takes, ours and the peers'
	$(BENCH) latency $(BENCH_OPTIONS) && $(BENCH) report
bench-long: .venv-bench/bin/ready ## Two million records, over which Kafka Streams warms up
	$(BENCH) throughput --stream long --only detector,streams $(BENCH_OPTIONS) && $(BENCH) report
bench-memory: .venv-bench/bin/ready ## Whether the detector's memory stays flat over ten million records; the page stays as it is
	$(BENCH) throughput --stream long --records 10000000 --rounds 1 --only detector --results /dev/null $(BENCH_OPTIONS)
bench-scale: .venv-bench/bin/ready ## One to four detectors on as many partitions
	$(BENCH) scale && $(BENCH) report
bench-failover: .venv-bench/bin/ready ## How long the outputs stand still when one broker of three is killed or frozen, and write docs/clusters.md
	$(BENCH) failover && $(BENCH) report

.PHONY: lint
lint: $(BIN)/ready ## Check format, style, types, and the workflow in .github
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	@if command -v actionlint >/dev/null; then actionlint; elif command -v go >/dev/null; then go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.7; else echo "actionlint is left out: neither it nor Go is installed"; fi

LOCKED = generator detector alerter bench demo embedded
COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock'
.PHONY: lock
lock: $(BIN)/ready ## Pin the newest allowed versions, with hashes, in the requirements files
	for folder in $(LOCKED); do $(COMPILE) --output-file $$folder/requirements.txt $$folder/requirements.in || exit 1; done
	$(COMPILE) --output-file service/requirements-msk.txt service/requirements-msk.in
	$(COMPILE) --group dev --output-file requirements-dev.txt
