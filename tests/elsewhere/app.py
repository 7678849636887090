"""One of our services, for which each broker's name leads to the addresses that a file says, in their order."""

import os
import runpy
import socket
import sys
from pathlib import Path
from typing import Any

RESOLVE = socket.getaddrinfo
sys.path.insert(0, os.getcwd())


def resolve(host: str, port: int, *how: Any, **more: Any) -> list[Any]:
    """Stand in for the system's resolver."""
    addresses = Path(os.environ["ADDRESSES"]).read_text().split()
    return [found for address in addresses for found in RESOLVE(address, port, *how, **more)]


socket.getaddrinfo = resolve
runpy.run_module(sys.argv[1], run_name="__main__")
