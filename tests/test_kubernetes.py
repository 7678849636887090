"""deploy/kubernetes, without a cluster: what it builds, and whether services, Compose and documents agree with it.

With what the manifests give them, the services run on an embedded Kafka that has their topics, users and rights.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kafka import KafkaConsumer

from alerter.app import Settings as AlerterSettings
from demo.attack import see, send
from detector.app import branching
from embedded.cluster import free_ports
from embedded.pipeline import ROOT, Pipeline
from embedded.records import lag
from embedded.secure import Authority, SecuredCluster
from embedded.service import Service, surroundings, wait_until
from exactly_once.job import Job
from exactly_once.member import Member
from exactly_once.topics import OUTPUT_CONFIGS
from generator.app import Settings as GeneratorSettings
from manifests import (
    COMPONENTS,
    FILES,
    FOLDER,
    KUBECTL,
    POD,
    SERVICES,
    Object,
    Started,
    build,
    container,
    copy_of,
    everything,
    kustomize,
    of_kind,
    pod,
    rights,
    set_up,
    topics,
    workload,
)
from service.settings import Environment
from smurfing.app import Smurfing

pytestmark = pytest.mark.long

DOCUMENT = (ROOT / "docs/kubernetes.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)$", DOCUMENT, re.M)
GROUPS = {"detector": "fraud-detector", "smurfing": "smurfing-detector"}
"""The services that the engine runs, with their groups."""
JOBS: dict[str, Callable[[Environment], Job]] = {"detector": branching, "smurfing": Smurfing}
READ = {
    "fraud-detector": ("detector", "queueing.transactions"),
    "smurfing-detector": ("smurfing", "streaming.transactions.fraud"),
    "alerter": ("alerter", "streaming.alerts"),
}
"""The groups, each with its service and what it reads."""
THEIRS = {"Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser", "PodMonitor"}
"""What is not Kubernetes' own, but of an operator."""
MOST_LINES = 400
COMPOSE = {
    name: service
    for file in ("docker-compose.yml", "compose/alerts.yml")
    for name, service in yaml.safe_load((ROOT / file).read_text())["services"].items()
}
each_service = pytest.mark.parametrize("service", SERVICES)


# --- what is built ---


def test_it_can_be_read_at_once() -> None:
    """All of it has 400 lines at most."""
    assert sum(len(file.read_text().splitlines()) for file in FILES) <= MOST_LINES


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_goes_with_the_base_alone(component: str) -> None:
    """What it adds is there, beside what the base has."""
    base = [(found["kind"], found["metadata"]["name"]) for found in build()]
    both = [(found["kind"], found["metadata"]["name"]) for found in build(component)]
    assert ("StatefulSet", "detector") in base
    assert set(base) <= set(both)
    assert (len(both) > len(base)) == (component != "service")  # that one changes what is there


def test_the_order_of_components_is_free() -> None:
    """It makes no difference."""

    def by_name(objects: list[Object]) -> list[str]:
        return sorted(yaml.safe_dump(found) for found in objects)

    assert by_name(build(*COMPONENTS)) == by_name(build(*reversed(COMPONENTS)))


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_kubernetes_knows_each_field(version: str) -> None:
    """The objects have what the schemas of two versions ask for, and nothing that these do not know."""
    others = set()
    for found in everything():
        try:
            assert kubernetes_validate.validate(found, version, strict=True) == version
        except kubernetes_validate.SchemaNotFoundError:
            others.add(found["kind"])
        assert found["metadata"].get("namespace", "fraud-detection") == "fraud-detection"
    assert others == THEIRS


def test_a_wrong_field_is_found() -> None:
    """The schemas refuse what they do not know."""
    wrong = {**workload("detector"), "spec": {**workload("detector")["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


# --- what a pod may do ---


@each_service
def test_a_pod_may_do_no_more_than_it_has_to(service: str) -> None:
    """It fits Pod Security's level `restricted`, which the namespace demands, and more than that."""
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    spec, (only,) = pod(service), pod(service)["containers"]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / service / "Dockerfile").read_text(), re.M)
    identity = {"runAsNonRoot": True, "runAsUser": int(user[0]), "runAsGroup": int(user[1])}
    assert spec["securityContext"] == identity | {"seccompProfile": {"type": "RuntimeDefault"}}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers", "serviceAccountName"}
    assert not any("hostPort" in port for port in only["ports"])
    assert {kind for volume in spec["volumes"] for kind in volume} <= {"name", "emptyDir", "projected", "secret"}
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert spec["shareProcessNamespace"] is COMPOSE[service]["init"] is True
    # All that can be written is /tmp, as in Compose.
    (tmp,) = [volume for volume in spec["volumes"] if "emptyDir" in volume]
    assert tmp["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Mi"}
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in only["volumeMounts"]}
    assert [path for path, is_read_only in mounts.items() if not is_read_only] == ["/tmp"]


def test_the_brokers_fit_the_namespace() -> None:
    """Strimzi's containers have what `restricted` asks of each."""
    (kafka,) = of_kind("Kafka")
    broker, operators = kafka["spec"]["kafka"]["template"], kafka["spec"]["entityOperator"]["template"]
    for one in (broker["kafkaContainer"], operators["topicOperatorContainer"], operators["userOperatorContainer"]):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"]},
        }


@each_service
def test_limits_and_the_time_to_stop_are_those_of_compose(service: str) -> None:
    """And the memory that a pod may take is reserved for it."""
    resources, compose = container(service)["resources"], COMPOSE[service]
    assert resources["limits"] == {"memory": compose["mem_limit"].replace("m", "Mi")}
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert f"{pod(service)['terminationGracePeriodSeconds']}s" == compose["stop_grace_period"]


@each_service
def test_the_probes_are_the_health_check_of_the_image(service: str) -> None:
    """The same command; the alerter is not restarted while a receiver does not confirm."""
    dockerfile = (ROOT / service / "Dockerfile").read_text()
    ((interval, timeout, command),) = re.findall(
        r"^HEALTHCHECK --interval=(\d+)s --timeout=(\d+)s .*\\\n +CMD (.*)$", dockerfile, re.M
    )
    probes = {name: probe for name, probe in container(service).items() if name.endswith("Probe")}
    assert set(probes) == ({"readinessProbe"} if service == "alerter" else {"startupProbe", "livenessProbe"})
    for name, probe in probes.items():
        assert probe["exec"]["command"] == ["sh", "-c", command]
        assert probe["timeoutSeconds"] == int(timeout)
        assert probe["periodSeconds"] == (5 if name == "startupProbe" else int(interval))


def test_at_most_one_detector_is_disrupted_at_a_time() -> None:
    """Of all of them, which start in parallel, and no more are there than partitions."""
    (budget,) = of_kind("PodDisruptionBudget")
    detector = workload("detector")["spec"]
    assert budget["spec"] == {"maxUnavailable": 1, "selector": detector["selector"]}
    assert detector["podManagementPolicy"] == "Parallel"
    assert 1 < detector["replicas"] <= topics()["queueing.transactions"]["partitions"]
    for service in SERVICES:
        labels = workload(service)["spec"]["template"]["metadata"]["labels"]
        assert workload(service)["spec"]["selector"] == {"matchLabels": labels}
        assert labels == {"app.kubernetes.io/name": service}
        keys = [spread["topologyKey"] for spread in pod(service)["topologySpreadConstraints"]]
        assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


# --- what the services make of it ---


class Asked(dict[str, str]):
    """Variables that remember which of them have been asked for."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__(variables)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """Return the variable."""
        self.names.add(name)
        return super().get(name, default)


def started(service: str, folder: Path, secrets: dict[str, dict[str, str]]) -> Started:
    """Return what the container of a service has, with its files in place."""
    one = Started(service, folder, {**secrets, "alert-urls": {"urls": "json://localhost:1\n"}})
    one.mount()
    (folder / "tmp").mkdir()
    return one


@each_service
def test_the_service_takes_its_settings(service: str, tmp_path: Path) -> None:
    """Its own settings accept the variables and files; each variable is read, and each topic is there."""
    secrets = {service: {"password": "secret of Strimzi's"}}
    secrets["fraud-cluster-ca-cert"] = {"ca.crt": Authority(tmp_path).certificate.read_text()}
    variables = Asked(started(service, tmp_path, secrets).environ(HEARTBEAT_FILE=str(tmp_path / "tmp/heartbeat")))
    environment = Environment(variables)
    member: Any = None
    if service in GROUPS:
        member = Member.from_env(environment, GROUPS[service])
        JOBS[service](environment)
        assert member.transactional_id == f"{GROUPS[service]}-{POD}"
    else:
        member = (AlerterSettings if service == "alerter" else GeneratorSettings).from_env(environment)
    assert member.cluster.access["sasl_plain_username"] == service
    assert member.cluster.access["sasl_plain_password"] == "secret of Strimzi's"
    assert member.cluster.broker_url == "fraud-kafka-bootstrap:9093"
    assert {port["containerPort"] for port in container(service)["ports"]} == {member.metrics_port}
    # POD_NAME is for the id, and LOG_FORMAT is read where the log begins.
    assert {name for name in variables if name not in variables.names} <= {"POD_NAME", "LOG_FORMAT"}
    assert {value for name, value in variables.items() if name.endswith("_TOPIC")} <= topics().keys()


@pytest.mark.parametrize("service", JOBS)
def test_the_topics_are_as_the_service_would_create_them(service: str, tmp_path: Path) -> None:
    """With the same settings, and as many partitions as the input."""
    secrets = {service: {"password": "any"}, "fraud-cluster-ca-cert": {"ca.crt": "any"}}
    job = JOBS[service](Environment(started(service, tmp_path, secrets).environ()))
    for output in job.outputs:
        spec = topics()[output.topic]
        assert spec["config"] == {**OUTPUT_CONFIGS, **output.configs}
        assert spec["partitions"] == topics()[job.inputs[0].topic]["partitions"]


def granted(commands: list[str]) -> dict[str, set[tuple[str, str, str, str]]]:
    """Return each user's rights, but for those to create topics, of these arguments of kafka-acls."""
    found: dict[str, set[tuple[str, str, str, str]]] = {}
    for command in commands:
        words = shlex.split(command)
        given = [(words[i].removeprefix("--"), words[i + 1]) for i in range(len(words) - 1) if words[i][:2] == "--"]
        values = dict(given)
        pattern = values.get("resource-pattern-type", "literal")
        user = values["allow-principal"].removeprefix("User:")
        kinds = ("topic", "group", "transactional-id")
        things = [(kind, name) for kind, name in given if kind in kinds]
        found.setdefault(user, set()).update(
            (kind, name, pattern, operation)
            for kind, name in things
            for option, operation in given
            if option == "operation" and operation != "Create"
        )
    return found


def test_the_rights_are_those_of_the_documentation() -> None:
    """Of the services that docs/security.md is about; tests/test_rights.py finds each necessary."""
    commands = re.findall(r"^\$ kafka-acls .* --add (.*)$", (ROOT / "docs/security.md").read_text(), re.M)
    ours = {user["metadata"]["name"]: rights(user) for user in of_kind("KafkaUser")}
    documented = granted(commands)
    assert set(documented) == {"generator", "detector"}
    assert {name: ours[name] for name in documented} == documented


def test_the_rights_are_those_of_compose(tmp_path: Path) -> None:
    """Of all services: compose/users.sh, run with a program that writes down what it is asked for, asks the same."""
    for tool in ("acls", "configs", "topics"):
        program = tmp_path / f"kafka-{tool}"
        program.write_text(f'#!/bin/sh\n[ {tool} != acls ] || echo "$*" >>{tmp_path}/asked\n')
        program.chmod(0o755)
    users = yaml.safe_load((ROOT / "compose/secure.kafka.yml").read_text())["services"]["users"]
    variables = {k: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", v) for k, v in users["environment"].items()}
    environ = {**surroundings(), **variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # The passwords are not there, which concerns another tool.
    subprocess.run(
        ["bash", str(ROOT / "compose/users.sh")], env=environ, check=True, stderr=subprocess.DEVNULL, timeout=60
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    ours = {user["metadata"]["name"]: rights(user) for user in of_kind("KafkaUser")}
    # Compose has users beside, for programs that are not run here.
    assert {user: its for user, its in granted(asked).items() if user in SERVICES} == ours


def test_the_brokers_are_set_up_as_in_compose() -> None:
    """What Kafka is told here and in compose/three-brokers.yml is the same, and nothing is told here alone."""
    (kafka,), (pool,) = of_kind("Kafka"), of_kind("KafkaNodePool")
    composition = yaml.safe_load((ROOT / "compose/three-brokers.yml").read_text())
    broker = composition["services"]["broker"]
    theirs = {
        name.removeprefix("KAFKA_").replace("_", ".").lower(): value for name, value in broker["environment"].items()
    }
    config = kafka["spec"]["kafka"]["config"]
    assert config == {name: theirs[name] for name in config}
    assert theirs["heap.opts"] == " ".join(f"{name}{size}" for name, size in pool["spec"]["jvmOptions"].items())
    assert pool["spec"]["resources"]["limits"]["memory"] == broker["mem_limit"].replace("m", "Mi")
    assert pool["spec"]["replicas"] == len(composition["services"])
    assert {found["metadata"]["labels"]["strimzi.io/cluster"] for found in of_kind("KafkaTopic", "KafkaUser")} | {
        pool["metadata"]["labels"]["strimzi.io/cluster"]
    } == {kafka["metadata"]["name"]}


# --- with a broker ---


@pytest.fixture(scope="module")
def secrets(kafka: SecuredCluster) -> dict[str, dict[str, str]]:
    """What Strimzi would make of topics and users, on the broker; returns the secrets."""
    return set_up(kafka)


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecuredCluster]:
    """A broker that asks for TLS and a password, and denies what is not allowed."""
    with SecuredCluster() as cluster:
        yield cluster


def test_the_services_work_with_what_they_are_given(
    kafka: SecuredCluster, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """All four run with these variables, files, topics and rights: a ring is told, and the document shows frauds."""
    address = kafka.environ("detector")["KAFKA_BROKER_URL"]
    running, environs = {}, {}
    with ExitStack() as stack:
        for service, port in zip(SERVICES, free_ports(len(SERVICES)), strict=True):
            folder = tmp_path / service
            one = started(service, folder, secrets)
            own = {"KAFKA_BROKER_URL": address, "METRICS_PORT": str(port)}
            environs[service] = one.environ(**own, HEARTBEAT_FILE=str(folder / "tmp/heartbeat"))
            if service == "alerter":  # it tells this log
                environs[service]["ALERT_URLS_FILE"] = ""
            running[service] = stack.enter_context(Service(service, environs[service]))
        running["smurfing"].wait_for("rate=")
        pipeline = Pipeline.of_compose(kafka.bootstrap_servers)
        see(pipeline, *send(pipeline))
        running["alerter"].wait_for("told Smurfing: 50 accounts sent 50,000 EUR")
        (command,) = [line for line in COMMANDS if "KafkaConsumer" in line]
        _, program = shlex.split(command.split(" -- ")[1].removeprefix("python "))
        shown = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**surroundings(), **environs["smurfing"]},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        frauds = [yaml.safe_load(line) for line in shown.stdout.splitlines()]
        assert len(frauds) == 5
        assert all(fraud["amount"] >= 900 for fraud in frauds)
        for service in SERVICES:
            heartbeat = tmp_path / service / "tmp/heartbeat"
            wait_until(lambda file=heartbeat: file.stat().st_mtime > 0, 60, lambda name=service: running[name].log)
        assert running["generator"].stop() == 0
        for group, (_, topic) in READ.items():  # also past the markers of transactions
            config = {"bootstrap_servers": pipeline.broker_url, "group_id": group, "enable_auto_commit": False}
            with closing(KafkaConsumer(**config)) as consumer:
                wait_until(lambda c=consumer, t=topic: lag(c, t) == 0, 120, lambda g=group: g)
        for service, _ in READ.values():
            assert running[service].stop() == 0
        assert not [line for one in running.values() for line in one.log.splitlines() if " ERROR " in line]


# --- monitoring ---


def test_prometheus_finds_what_it_finds_in_compose() -> None:
    """Every service, by the same names of jobs, as often."""
    (monitor,) = of_kind("PodMonitor")
    prometheus = yaml.safe_load((ROOT / "compose/monitoring/prometheus.yml").read_text())
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("app.kubernetes.io/name", "In")
    jobs = {job["job_name"] for job in prometheus["scrape_configs"]} - {"prometheus"}
    assert set(expression["values"]) == jobs == set(SERVICES)
    assert monitor["spec"]["jobLabel"] == expression["key"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "interval": prometheus["global"]["scrape_interval"]}
    assert all(container(service)["ports"][0]["name"] == "metrics" for service in SERVICES)


def test_the_rules_are_those_of_compose() -> None:
    """What the document's command hands to kubectl is an object with just these, and they ask for no others' jobs."""
    (command,) = [line for line in COMMANDS if line.startswith("sed") and "rules.yml" in line]
    made, _, applied = command.rpartition(" | ")
    assert applied == "kubectl apply -f -"
    text = subprocess.run(["bash", "-c", made], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rule, compose = yaml.safe_load(text), (ROOT / "compose/monitoring/rules.yml").read_text()
    assert (rule["kind"], rule["metadata"]["namespace"]) == ("PrometheusRule", "fraud-detection")
    assert rule["spec"] == yaml.safe_load(compose)
    assert "job!" not in compose
    named = {name for names in re.findall(r'job=~?"([^"]+)"', compose) for name in names.split("|")}
    assert named == set(SERVICES)


# --- the document's commands ---


@pytest.mark.parametrize("command", [line for line in COMMANDS if "kubectl" in line], ids=lambda line: line[:60])
def test_kubectl_understands_the_command(command: str, tmp_path: Path) -> None:
    """It goes as far as asking a cluster, of which there is none; what it names is here."""
    words = shlex.split(command[command.index("kubectl") :])
    objects = {f"{found['kind'].lower()}/{found['metadata']['name']}" for found in everything()}
    for word in words[: words.index("--")] if "--" in words else words:
        if re.fullmatch(r"[a-z]+/[a-z-]+", word):
            assert word in objects or (ROOT / word).is_dir(), word
        if word.startswith("--from-file="):
            (tmp_path / word.rpartition("=")[2]).write_text("json://localhost:1\n")
    if "-n" in words:
        assert f"namespace/{words[words.index('-n') + 1]}" in objects
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    config = {"clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}], "current-context": "none"}
    config["contexts"] = [{"name": "none", "context": {"cluster": "none"}}]
    (tmp_path / "config").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
    asked = subprocess.run(
        [KUBECTL, *words[1:]],
        cwd=tmp_path,
        env={**os.environ, "KUBECONFIG": str(tmp_path / "config"), "HOME": str(tmp_path)},
        input="{apiVersion: v1, kind: ConfigMap, metadata: {name: any}}",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert asked.returncode == 1
    assert re.search(r"127\.0\.0\.1:1\b.*refused", asked.stderr), asked.stderr


def test_the_images_that_are_built_are_those_that_run() -> None:
    """With the document's commands: each has a Dockerfile, and the name under which it is pushed is the pods'."""
    export, loop, rename = COMMANDS[:3]
    assert "-f $service/Dockerfile ." in loop
    registry = export.removeprefix("export REGISTRY=")
    ((names, tag),) = re.findall(r"for service in ([a-z ]+); do docker build -t \$REGISTRY/\$service:(\S+) -f", loop)
    assert set(names.split()) == set(SERVICES)
    assert all((ROOT / service / "Dockerfile").is_file() for service in SERVICES)
    with copy_of() as folder:
        edit = rename.replace("deploy/kubernetes/", f"{folder}/")
        subprocess.run(["bash", "-c", edit], env={**os.environ, "REGISTRY": registry}, check=True)
        built = [found for found in kustomize(folder) if found["kind"] in ("StatefulSet", "Deployment")]
    images = {found["spec"]["template"]["spec"]["containers"][0]["image"] for found in built}
    assert images == {f"{registry}/{found['metadata']['name']}:{tag}" for found in built}
    assert (FOLDER / "kustomization.yaml").read_text().count("registry.example.com") == len(SERVICES)
