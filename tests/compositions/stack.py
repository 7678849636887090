"""Both compositions under one Compose command, and the pipeline that they run."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from compositions.engine import (
    CLUSTER,
    KAFKA,
    NETWORK,
    PROJECT,
    SERVICES,
    V1,
    V2,
    complaints,
    containers,
    inspect,
    log,
    run,
    service,
)
from embedded.pipeline import Pipeline
from embedded.service import wait_until


@dataclass
class Stack:
    """The containers, volumes, images and networks of one Compose command."""

    command: str
    variables: str = ""
    """What make is given beside the target, such as KRAFT=1."""
    output: str = field(default="", repr=False)
    """What the commands of the first bring-up have printed."""
    restarts: dict[str, int] = field(default_factory=dict)
    """How often each container had been restarted once the first records were through."""
    volumes: set[str] = field(default_factory=set)
    """The names of all volumes that a container of ours has had so far, anonymous ones included."""
    images: set[str] = field(default_factory=set)
    """The ids of all images of our services so far."""

    @property
    def terminal(self) -> str:
        """The command, printing what it prints on a terminal: elsewhere v1 does not mark its warnings as such."""
        return self.command + (" --ansi always" if self.command == V1 else "")

    def compose(self, arguments: str, before: str = "", ignore_orphans: bool = True) -> str:
        """Run Compose, with something before it on the command line, and return what it printed; fail if it failed."""
        # v2 finds the variable in .env.
        orphans = "COMPOSE_IGNORE_ORPHANS=true" if self.command == V1 and ignore_orphans else ""
        return run(f"{before} {orphans} {self.terminal} {arguments}")

    def quiet(self, arguments: str, before: str = "") -> str:
        """Run Compose and return what it printed; fail if it failed or complained."""
        self.note()
        output = self.compose(arguments, before)
        assert not complaints(output), complaints(output)
        return output

    def make(self, target: str, quiet: bool = True, after: str = "") -> str:
        """Run make as its user does, and return what it printed; fail if it failed or, unless allowed, complained.

        After it on the command line may come another command, which reads what it prints.
        """
        self.note()
        compose = "" if self.command == V2 else f"COMPOSE='{self.terminal}'"
        output = run(f"make {compose} {self.variables} {target} {after}")
        assert not quiet or not complaints(output), complaints(output)
        return output

    def kafka(self, tool: str, before: str = "") -> str:
        """Run a tool of Kafka's in the broker's container, as the tutorial does."""
        name, arguments = tool.split(maxsplit=1)
        return self.compose(f"{KAFKA} exec -T broker {name} --bootstrap-server localhost:9092 {arguments}", before)

    def consume(self, topic: str, messages: int, options: str = "") -> list[str]:
        """Return so many lines of kafka-console-consumer, from the topic's beginning."""
        arguments = f"--topic {topic} --from-beginning --max-messages {messages} --timeout-ms 120000 {options}"
        # What it says of itself comes by another way, and so at any place between its lines.
        lines = self.kafka(f"kafka-console-consumer {arguments} 2>/dev/null").splitlines()
        assert len(lines) == messages
        return lines

    # --- waiting ---

    def wait_healthy(self, *names: str) -> None:
        """Wait until the containers of these services are healthy."""

        def states() -> list[tuple[str, str]]:
            return [(service(c), c["State"]["Health"]["Status"]) for c in containers(*names)]

        wait_until(lambda: sorted(states()) == [(n, "healthy") for n in sorted(names)], 240, lambda: str(states()))

    def wait_for(self, name: str, pattern: str, seconds: float = 120) -> None:
        """Wait until every container of this service has printed, since its last start, what matches the pattern."""

        def logs() -> list[str]:
            return [log(container) for container in containers(name)]

        def printed() -> bool:
            found = [re.search(pattern, text) for text in logs()]
            return len(found) > 0 and all(found)

        wait_until(printed, seconds, lambda: "\n".join(logs()))

    def wait_at_work(self, seconds: float = 120) -> None:
        """Wait until the generator has delivered records and the detector has routed some."""
        self.wait_for("generator", "delivered=[1-9]", seconds)
        self.wait_for("detector", "legit=[1-9]", seconds)

    def assert_each_in_one_output(self, pipeline: Pipeline, **differing: None) -> None:
        """Stop the generator, let the detector drain, and see that every input record is in exactly one output.

        What may differ beside offset and headers is given as None.
        """
        self.quiet("stop generator")
        pipeline.drain()
        none: dict[str, Any] = {"offset": None, "headers": (), **differing}
        inputs = [record._replace(**none) for record in pipeline.read(pipeline.transactions)]
        outputs = [record._replace(**none) for topic in pipeline.outputs for record in pipeline.read(topic)]
        assert len(outputs) == len(inputs) > 0
        assert Counter(outputs) == Counter(inputs)

    # --- clearing up ---

    def note(self) -> None:
        """Remember the volumes and images that are in use now."""
        for container in containers():
            self.volumes |= {mount["Name"] for mount in container["Mounts"] if mount["Type"] == "volume"}
            if service(container) in SERVICES:
                self.images.add(container["Image"])

    def leftovers(self, kind: str) -> list[str]:
        """Return the ids of what is there of ours, in whatever state; kind is container, volume, image or network."""
        ours = f"--filter label=com.docker.compose.project={PROJECT}"
        if kind == "image":
            # An image without a name has had ours before a newer one took it. One with other names is other people's,
            # too: v1 builds the same image under each project's name.
            names = " ".join(f"--filter 'reference={PROJECT}{dash}*'" for dash in "-_")
            tagged = run(f"docker images --quiet --no-trunc {names}").split()
            return [
                image["Id"]
                for image in inspect("image", self.images | set(tagged))
                if all(name.startswith((f"{PROJECT}-", f"{PROJECT}_")) for name in image["RepoTags"] or ())
            ]
        labelled = run(f"docker {kind} ls {'--all' if kind == 'container' else ''} --quiet {ours}").split()
        if kind == "network":
            return run(f"docker network ls --quiet --filter name=^{NETWORK}$").split() + labelled
        return labelled if kind == "container" else [v["Name"] for v in inspect("volume", self.volumes | set(labelled))]

    def remove_everything(self) -> None:
        """Remove all of ours but the shared network, however far the tests came and whatever is broken."""
        self.note()
        commands = {"container": "rm --force --volumes", "volume": "volume rm", "image": "rmi --force"}
        for kind, command in commands.items():
            ids = self.leftovers(kind)
            if ids:
                run(f"docker {command} {' '.join(ids)}")
        run(f"docker network prune --force --filter label=com.docker.compose.project={PROJECT}")


def running() -> list[str]:
    """Return the names of the services whose containers run, once for each."""
    return sorted(service(container) for container in containers() if container["State"]["Running"])


EVERYTHING = sorted(CLUSTER + SERVICES)
"""The names of all services."""

only_v2 = pytest.mark.parametrize("stack", [V2], ids=["v2"], indirect=True)
"""For what does not depend on Compose's version."""
