"""The Makefile by itself: what it makes of variables, folders and signals, without Docker."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.pipeline import ROOT

SHOW = "--eval=show: ; @printf '%s\\n' '$(COMPOSE_PROJECT_NAME)' '$(SERVICES)' && env"


def make(*arguments: str, folder: Path = ROOT, code: int = 0, **environ: str) -> str:
    """Run make as in a shell that has these variables, see that it ends with this code, and return what it printed."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "COMPOSE"))
    }
    ended = subprocess.run(
        ["make", "COMPOSE=compose", *arguments],
        cwd=folder,
        env=inherited | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert ended.returncode == code, ended.stdout
    return ended.stdout


def checkout(folder: Path) -> Path:
    """Return the folder, with a Makefile."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    return folder


@pytest.mark.parametrize("value", ["1", "yes", "true", "0", "no", "false", ""])
def test_a_switch_is_on_or_off(value: str) -> None:
    """Whether it comes on the command line or from the shell."""
    for shown in (make(SHOW, "show", f"MONITORING={value}"), make(SHOW, "show", MONITORING=value)):
        assert ("monitoring.yml" in shown) == (value in ("1", "yes", "true"))


@pytest.mark.parametrize("value", ["2", "on", "False", "-"])
def test_a_switch_of_another_value_is_refused(value: str) -> None:
    """In a line that names it, and what it takes."""
    assert f"KRAFT={value}: give it 1, yes or true, or to switch it off 0," in make("help", f"KRAFT={value}", code=2)


@pytest.mark.parametrize(
    ("name", "project"),
    [("Fraud.2", "fraud2"), ("_our-fraud", "our-fraud"), ("проект", ""), ("___", ""), ("it's", "its")],
)
def test_every_folder_gives_a_project_its_name(tmp_path: Path, name: str, project: str) -> None:
    """That which Compose v2 would use; where there is none, one of ours, which no other checkout has."""
    names = [make(SHOW, "show", folder=checkout(tmp_path / n / name)).splitlines()[0] for n in ("a", "b")]
    if project:
        assert names == [project, project]
    else:
        assert names[0] != names[1]
        assert all(found.startswith("fraud-") and found[6:].isdecimal() for found in names)


def test_a_project_can_be_named(tmp_path: Path) -> None:
    """In the shell or in .env, as for Compose."""
    folder = checkout(tmp_path / "fraud")
    (folder / ".env").write_text("COMPOSE_PROJECT_NAME=second\n")
    assert make(SHOW, "show", folder=folder).startswith("second\n")
    assert make(SHOW, "show", folder=folder, COMPOSE_PROJECT_NAME="third").startswith("third\n")


def test_python_finds_our_packages() -> None:
    """Also where the shell tells Python to keep out of the folder it runs in."""
    assert "PYTHONSAFEPATH" not in make(SHOW, "show", PYTHONSAFEPATH="1")


def test_an_environment_without_python_is_made_anew(tmp_path: Path) -> None:
    """After an update of Python there may be links to nowhere; what works stays."""
    folder = checkout(tmp_path / "fraud")
    for name, python in ((".venv", tmp_path / "gone"), (".venv-watch", sys.executable)):
        (folder / name / "bin").mkdir(parents=True)
        (folder / name / "bin" / "ready").touch()
        (folder / name / "bin" / "python").symlink_to(python)
    make("help", folder=folder)
    assert not (folder / ".venv").exists()
    assert (folder / ".venv-watch" / "bin" / "ready").exists()


INTERRUPTED = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(100)
except KeyboardInterrupt:
    sys.exit("audited")
"""


def test_ctrl_c_ends_a_target_quietly(tmp_path: Path) -> None:
    """What runs says what it has to say; make adds nothing, and ends as by the signal."""
    (tmp_path / "target.py").write_text(INTERRUPTED)
    target = f"--eval=wait: ; @true && {sys.executable} {tmp_path}/target.py && echo more"
    process = subprocess.Popen(
        ["make", target, "wait"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},  # of `make test-all`
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert output == "audited\n"
    assert process.returncode == -signal.SIGINT
