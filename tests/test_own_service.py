"""docs/your-own-service.md: what it shows is what there is, and who does as it says has a service that is tested."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from embedded.pipeline import ROOT
from embedded.service import surroundings

pytestmark = pytest.mark.long

FOLDER = ROOT / "docs/examples/frauds_per_minute"
DOCUMENT = (ROOT / "docs/your-own-service.md").read_text()


def block(language: str) -> str:
    """Return the only block of this language in the document."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.M | re.S)
    return str(found)


def test_the_document_has_the_files() -> None:
    """It shows the service and its Dockerfile as they are; the service has 25 lines at most, apart from docstrings."""
    code = (FOLDER / "app.py").read_text()
    assert block("python") == code
    assert block("dockerfile") == (FOLDER / "Dockerfile").read_text()
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            del node.body[0]  # its docstring
    assert len([line for line in ast.unparse(tree).splitlines() if line]) <= 25


def test_the_image_has_all_that_the_service_imports(tmp_path: Path) -> None:
    """The Dockerfile's files alone, with the service in a folder of the root, start it: it misses a variable."""
    root, image = tmp_path / "root", tmp_path / "image"
    for room in ("service", "exactly_once", "detector"):
        shutil.copytree(ROOT / room, root / room)
    shutil.copytree(FOLDER, root / FOLDER.name)
    for pattern, target in re.findall(r"^COPY (\S+) (\S+)$", block("dockerfile"), re.M):
        (image / target).mkdir(parents=True, exist_ok=True)
        files = list(root.glob(pattern))
        assert files, pattern
        for file in files:
            shutil.copy(file, image / target)
    (command,) = re.findall(r"^CMD (\[.*\])$", block("dockerfile"), re.M)
    ended = subprocess.run(
        [sys.executable, *json.loads(command)[1:]],
        cwd=image,
        env={**surroundings(), "KAFKA_BROKER_URL": "localhost:1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert "FRAUD_TOPIC is not set" in ended.stderr


def test_the_entry_fits_in_compose() -> None:
    """It is a service of docker-compose.yml, and sets what the service reads."""
    text = (ROOT / "docker-compose.yml").read_text()
    services = yaml.safe_load(text.replace("\nservices:\n", f"\nservices:\n{block('yaml')}"))["services"]
    assert services.keys() == yaml.safe_load(text)["services"].keys() | {"frauds-per-minute"}
    own, detector = services["frauds-per-minute"], services["detector"]
    assert own["build"]["dockerfile"] == f"{FOLDER.name}/Dockerfile"
    assert own.keys() >= detector.keys() - {"build"}
    assert set(re.findall(r"\w+_TOPIC", (FOLDER / "app.py").read_text())) <= own["environment"].keys()


def test_a_service_of_ones_own_is_there_in_four_commands(tmp_path: Path) -> None:
    """The document's first block copies the example under another name, and its tests run, and find it."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    first = re.findall(r"^```console\n(.*?)^```$", DOCUMENT, re.M | re.S)[0]
    *lines, test = [line.removeprefix("$ ") for line in first.splitlines()]
    assert test.startswith(".venv/bin/pytest ")
    tested = test.replace(".venv/bin/pytest", f"{sys.executable} -m pytest")
    old = "if grep -rE 'frauds[_-]per|FraudsPer' $NAME tests/test_$NAME.py; then exit 1; fi"
    script = "\n".join(["set -e", *lines, old, tested])
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=surroundings(), capture_output=True, text=True, timeout=840
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout
