"""The images, run by Docker as deploy/kubernetes has them run: with its user, limit, root, files and probes."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compositions.engine import PROJECT, check_engine, run, unable
from embedded.cluster import free_ports
from embedded.secure import SecuredCluster
from embedded.service import wait_until
from manifests import SECRETS, SERVICES, Started, container, pod, set_up


@pytest.fixture(scope="module")
def kafka(turn: None) -> Iterator[SecuredCluster]:
    """A broker on this machine that asks for TLS and a password."""
    check_engine("docker")
    if sys.platform != "linux":
        unable("a container has the network of this machine on Linux alone")
    with SecuredCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def secrets(kafka: SecuredCluster) -> dict[str, dict[str, str]]:
    """The topics, users and rights are there; returns the secrets."""
    return set_up(kafka) | {"alert-urls": {"urls": "json://localhost:1"}}


def flags(started: Started, **others: str) -> str:
    """Return the options of `docker run` that stand for what the manifest says, with some other variables."""
    user, only = pod(started.service)["securityContext"], container(started.service)
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    paths = [mount["mountPath"] for mount in only["volumeMounts"]]
    secret = [path for path in paths if path.startswith(SECRETS)]
    assert sorted({*paths} - {*secret}) == ["/tmp"]
    assert pod(started.service)["shareProcessNamespace"]
    memory = only["resources"]["limits"]["memory"].replace("Mi", "m")
    options = [
        f"--user {user['runAsUser']}:{user['runAsGroup']} --memory {memory}",
        "--init --network host --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp:size=1m",
        *(f"--volume {started.folder}{path}:{path}:ro" for path in secret),
        *(f"--env {shlex.quote(f'{name}={value}')}" for name, value in (started.variables() | others).items()),
    ]
    return " ".join(options)


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_works_as_its_manifest_has_it(
    kafka: SecuredCluster, secrets: dict[str, dict[str, str]], tmp_path: Path, service: str
) -> None:
    """Its probe succeeds, nothing goes wrong, and it ends within the time it has to stop."""
    started = Started(service, tmp_path, secrets)
    started.mount()
    (port,) = free_ports(1)
    given = flags(started, KAFKA_BROKER_URL=kafka.environ("detector")["KAFKA_BROKER_URL"], METRICS_PORT=str(port))
    only, name = container(service), f"{PROJECT}-pod-{service}"
    (probe, *others) = [value for key, value in only.items() if key.endswith("Probe")]
    assert all(other["exec"] == probe["exec"] for other in others)
    run(f"docker rm --force --volumes {name} 2>/dev/null; docker build -q -t {name} -f {service}/Dockerfile .")
    try:
        run(f"docker run --detach --name {name} {given} {name}")

        def is_well() -> bool:
            command = ["docker", "exec", name, *probe["exec"]["command"]]
            return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

        wait_until(is_well, 240, lambda: run(f"docker logs {name}"))
        inside = run(f"docker exec {name} sh -c 'id -u; touch /tmp/x && ! touch /usr/app/x'")
        assert "10001\n" in inside
        assert "Read-only file system" in inside
        assert '"level": "ERROR"' not in run(f"docker logs {name}")
        run(f"docker stop -t {pod(service)['terminationGracePeriodSeconds']} {name}")
        state = run(
            f"docker inspect -f '{{{{.State.ExitCode}}}} {{{{.State.OOMKilled}}}} {{{{.RestartCount}}}}' {name}"
        )
        assert state.split() == ["0", "false", "0"]
    finally:
        run(f"docker rm --force --volumes {name}")
        run(f"docker rmi {name}")
