"""The images: each holds what its service needs and no more, whatever the modes of the checkout are."""

import shutil
from pathlib import Path

import pytest

from compositions.engine import ROOT, check_engine, run
from compositions.stack import Stack

ROOMS = {
    "generator": {"generator", "service"},
    "detector": {"detector", "exactly_once", "service"},
    "smurfing": {"detector", "exactly_once", "service", "smurfing"},
    "alerter": {"alerter", "exactly_once", "service"},
    "redrive": {"exactly_once", "redrive", "service"},
    "dashboard": {"demo", "detector", "embedded", "exactly_once", "generator", "service"},
}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Path:
    """A copy of the project in which nobody else may read anything, as a checkout under `umask 077` is."""
    check_engine(stack.command)
    copy = tmp_path_factory.mktemp("checkout")
    for name in {*ROOMS["dashboard"], *ROOMS["smurfing"], "alerter", "redrive"}:
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / ".dockerignore", copy)
    run(f"chmod -R go= {copy}")
    return copy


def test_prometheus_can_read_its_configuration(private: Path) -> None:
    """Its image takes files that nobody else may read, and its user can."""
    shutil.copytree(ROOT / "compose/monitoring", private / "monitoring", dirs_exist_ok=True)
    run(f"chmod -R go= {private}/monitoring")
    image = run(f"docker build -q {private}/monitoring").split()[-1]
    try:
        run(f"docker run --rm --entrypoint promtool {image} check config /etc/prometheus/prometheus.yml")
    finally:
        run(f"docker image rm --force {image}")


@pytest.mark.parametrize("name", ROOMS)
def test_an_image_holds_what_it_needs(private: Path, name: str) -> None:
    """Nothing but the rooms that its service imports, without tests; and its user can import the service."""
    file = f"{'demo' if name == 'dashboard' else name}/Dockerfile"
    image = run(f"docker build -q -f {private}/{file} {private}").split()[-1]
    try:
        found = run(f"docker run --rm --entrypoint sh {image} -c 'ls; find . -name tests -o -name \"*.pyc\"'").split()
        assert set(found) == ROOMS[name] | {"requirements.txt"}
        module = "demo.dashboard" if name == "dashboard" else f"{name}.app"
        run(f"docker run --rm --read-only --entrypoint python {image} -c 'import {module}'")
    finally:
        run(f"docker image rm --force {image}")


def test_they_are_built_in_a_folder_of_any_name(private: Path, stack: Stack) -> None:
    """As `make up` has Compose build them; its builder for many images at once could not."""
    folder = private.parent / f"{private.name} проект"
    shutil.copytree(private, folder)
    for name in ("Makefile", "docker-compose.yml"):
        shutil.copy(ROOT / name, folder)
    built = "--eval='images: ; $(SERVICES) build --quiet' images"
    run(f"make -C '{folder}' COMPOSE='{stack.command}' {built}")
