"""Dependabot sees everything that this repository pins, in forms that it reads: literal names and versions."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
LITERAL_IMAGE = r"[a-z0-9][a-z0-9._/-]*:[A-Za-z0-9_][\w.-]*(@sha256:[0-9a-f]{64})?"
COMPOSE_FILE = r"(docker-)?compose(-\w+)?(\.[\w-]+)?\.ya?ml"
"""The names that Dependabot takes for those of compositions, wherever they stand in a name."""


def directories(ecosystem: str) -> set[Path]:
    """Return the directories in which Dependabot looks for files of this ecosystem."""
    config = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    found = [update for update in config["updates"] if update["package-ecosystem"] == ecosystem]
    names = [name for update in found for name in update.get("directories", [update.get("directory")])]
    return {Path(name.strip("/")) for name in names}


def compositions() -> list[str]:
    """Return the files that define services and name images for them, whatever their names."""
    files = [file for file in FILES if file.endswith((".yml", ".yaml"))]
    services = {
        file: [one.get("services", {}) for one in yaml.safe_load_all((ROOT / file).read_text())] for file in files
    }
    return [file for file in files if any("image" in one for each in services[file] for one in each.values())]


@pytest.mark.parametrize("file", [file for file in FILES if Path(file).name.startswith("Dockerfile")])
def test_a_dockerfile_is_covered(file: str) -> None:
    """Its directory is listed, and each FROM names an image and a tag, without a variable."""
    assert Path(file).parent in directories("docker")
    images = re.findall(r"^FROM\s+(\S+)", (ROOT / file).read_text(), re.M | re.I)
    assert images
    assert [image for image in images if not re.fullmatch(LITERAL_IMAGE, image)] == []


def images(file: str) -> list[str]:
    """Return the images that a composition names."""
    services = yaml.safe_load((ROOT / file).read_text())["services"].values()
    return [service["image"] for service in services if "image" in service]


@pytest.mark.parametrize("file", compositions())
def test_a_composition_is_covered(file: str) -> None:
    """Its directory is listed, its name is one that is recognised, and each image has a tag, without a variable.

    Dependabot recognises no name in compose/.
    """
    assert [image for image in images(file) if not re.fullmatch(LITERAL_IMAGE, image)] == []
    if Path(file).parent == Path("compose"):
        assert not re.search(COMPOSE_FILE, Path(file).name)
    else:
        assert Path(file).parent in directories("docker-compose")
        assert re.search(COMPOSE_FILE, Path(file).name)


def test_the_compositions_have_one_version_of_each_line() -> None:
    """An image's version that is raised in one file is raised in all: those of compose/ are raised by hand."""
    versions: dict[str, set[str]] = {}
    for image in {image for file in compositions() for image in images(file)}:
        versions.setdefault(re.match(r".*:v?\d+", image)[0], set()).add(image)  # type: ignore[index]
    assert {line: found for line, found in versions.items() if len(found) > 1} == {}
    assert {"confluentinc/cp-kafka:7", "confluentinc/cp-kafka:8"} <= versions.keys()


@pytest.mark.parametrize("file", [file for file in FILES if re.fullmatch(r"requirements.*\.txt", Path(file).name)])
def test_a_lock_file_is_covered(file: str) -> None:
    """Its directory is listed or the one above it is, it is not too large to be read, and it pins what it names."""
    directory = Path(file).parent
    assert {directory, directory.parent} & directories("pip")
    text = (ROOT / file).read_text()
    assert len(text) < 500_000
    requirements = re.findall(r"^[A-Za-z0-9].*", text, re.M)
    assert requirements
    assert [line for line in requirements if not re.match(r"[\w.-]+(\[[\w,-]+\])?==\d", line)] == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(".github/workflows/")])
def test_a_workflow_is_covered(file: str) -> None:
    """Each action is pinned to a commit, with its version beside it."""
    assert Path() in directories("github-actions")
    uses = re.findall(r"\buses: *(.*)", (ROOT / file).read_text())
    assert uses
    assert [line for line in uses if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_all_kinds_of_files_were_found() -> None:
    """The tests above have not passed for want of files."""
    names = {Path(file).name for file in FILES}
    assert {"Dockerfile", "docker-compose.kafka.yml", "requirements.txt", "test.yml"} <= names
