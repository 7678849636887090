"""The jars of each line of Kafka: locked by SHA-256, downloaded once by jgo, checked at every use."""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jgo.maven import MavenContext

RETRY_PAUSES = (0, 1, 3)  # seconds before each attempt to download a jar


class JarError(Exception):
    """A jar cannot be downloaded, or is not the one of the lock file."""


class Line(NamedTuple):
    """A line of Kafka that the pipeline runs on."""

    version: str
    authorizer: str
    """Its class for permissions."""

    @property
    def lock_file(self) -> Path:
        """The committed list of its jars."""
        return Path(__file__).with_name(f"kafka-{self.version[0]}.lock.toml")


KAFKA_4 = Line("4.4.0", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
KAFKA_3 = Line("3.9.2", "kafka.security.authorizer.AclAuthorizer")
"""The tutorial's, the last one with ZooKeeper."""


class Jar(NamedTuple):
    """One jar of the lock file."""

    coordinate: str
    file_name: str
    sha256: str


def cache_folder() -> Path:
    """Return the folder of the user's cache that keeps the jars from one run to the next.

    Raises JarError if the user has none.
    """
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise JarError("this user has no home folder for Kafka's jars: name one in XDG_CACHE_HOME") from None
    return Path(cache) / "streaming-fraud-detection" / "jars"


def locked_jars(line: Line = KAFKA_4) -> list[Jar]:
    """Return the jars that the lock file of a line names."""
    return [
        Jar(
            f"{entry['groupId']}:{entry['artifactId']}:{entry['version']}",
            f"{entry['artifactId']}-{entry['version']}.jar",
            entry["sha256"],
        )
        for entry in tomllib.loads(line.lock_file.read_text())["dependencies"]
    ]


def prepare(jars: Sequence[Jar] | Line = KAFKA_4) -> list[Path]:
    """Return the paths of these jars, or of a line's, after downloading those that the cache lacks.

    Needs no network once the jars are cached. Every jar is checked every time. Progress goes to stderr.

    Raises:
        JarError: a download fails at every attempt, or a jar has another hash than the lock file says.
    """
    jars, folder = locked_jars(jars) if isinstance(jars, Line) else jars, cache_folder()
    if not all((folder / jar.file_name).exists() for jar in jars):
        _download(jars, folder)
    for jar in jars:
        _check(jar, folder / jar.file_name)
    return [folder / jar.file_name for jar in jars]


def _download(jars: Sequence[Jar], folder: Path) -> None:
    from jgo.maven import MavenContext  # Here because it is slow to import and rarely needed.

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "partial"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # A second process waits here, and then finds the jars.
        shutil.rmtree(partial, ignore_errors=True)
        maven = MavenContext(repo_cache=partial, timeout=30)
        missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
        if missing:
            print(f"Downloading {len(missing)} jars, once, to {folder}", file=sys.stderr)
        for number, jar in enumerate(missing, 1):
            print(f"[{number}/{len(missing)}] {jar.file_name}", file=sys.stderr)
            # jgo writes into `partial`: a jar gets its place in `folder` only when it is whole and right.
            path = _fetch(maven, jar)
            _check(jar, path)
            path.replace(folder / jar.file_name)
        shutil.rmtree(partial, ignore_errors=True)


def _fetch(maven: "MavenContext", jar: Jar) -> Path:
    artifact = maven.create_dependency(jar.coordinate).artifact
    assert artifact.cached_path is not None
    for pause in RETRY_PAUSES:
        time.sleep(pause)
        try:
            return artifact.resolve()
        except (OSError, RuntimeError) as error:
            reason = error
            artifact.cached_path.unlink(missing_ok=True)  # jgo would mistake a partial file for the jar.
    raise JarError(
        f"cannot download {jar.file_name}: {reason}. Check the network and run "
        "`python -m embedded prepare` again; the jars downloaded so far are kept."
    )


def _check(jar: Jar, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise JarError(
            f"{jar.file_name} is not the jar that is locked: expected SHA-256 {jar.sha256}, "
            f"found {found}. Delete {path} and run `python -m embedded prepare` to download it again."
        )


def lock(line: Line) -> None:
    """Resolve the jars of a line again and write its lock file: this is how to move to another version."""
    from jgo.env import LockFile
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as repository:
        maven = MavenContext(repo_cache=Path(repository), timeout=30)
        # Kafka Connect is 42 of 105 jars. No broker and none of our tools loads it.
        connect = maven.project("org.apache.kafka", "connect-runtime")
        wanted = [
            maven.create_dependency(f"org.apache.kafka:kafka_2.13:{line.version}"),
            maven.create_dependency(f"org.apache.kafka:kafka-tools:{line.version}", exclusions=[connect]),
            maven.create_dependency("org.slf4j:slf4j-reload4j:1.7.36"),
        ]
        direct, transitive = maven.resolver.resolve(wanted)
        dependencies = direct + [jar for jar in transitive if jar.scope in ("compile", "runtime")]
        LockFile.from_resolved_dependencies(dependencies, environment_name="kafka").save(line.lock_file)
