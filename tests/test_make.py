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
    for line in ('COMPOSE_PROJECT_NAME="second"', "export COMPOSE_PROJECT_NAME=second # mine\r"):
        (folder / ".env").write_text(f"COMPOSE_PROJECT_NAME=first\n{line}\n")
        assert make(SHOW, "show", folder=folder, COMPOSE_PROJECT_NAME="").startswith("second\n")


def test_the_shells_variables_lead_nowhere_else() -> None:
    """Python finds our packages, pip our environments; and no file or function of the user's shell has a word."""
    names = ("PYTHONSAFEPATH", "PYTHONPATH", "PYTHONHOME", "PIP_USER", "COMPOSE_REMOVE_ORPHANS")
    shown = make(SHOW, "show", **dict.fromkeys(names, "/x"), BASH_ENV="/dev/stdin", CDPATH="/")
    assert not [name for name in names if f"\n{name}=" in shown]


@pytest.mark.parametrize("name", ["urls", "my urls", "it's $5", "$(x)"])
def test_the_file_with_urls_may_have_any_name(tmp_path: Path, name: str) -> None:
    """With its whole path in the environment of Compose; one that is not there is told before Docker makes a folder."""
    folder = checkout(tmp_path / "fraud")
    assert f"\nALERT_URLS_FILE={folder}/{name}\n" in make(SHOW, "show", folder=folder, ALERT_URLS_FILE=name)
    assert f"\nALERT_URLS_FILE=/a/{name}\n" in make(SHOW, "show", folder=folder, ALERT_URLS_FILE=f"/a/{name}")


def test_make_up_refuses_what_no_container_can_use(tmp_path: Path) -> None:
    """Before anything starts: a broker that would be the container itself, a file that is not there."""
    said = make("up", folder=checkout(tmp_path / "a"), code=2, KAFKA_BROKER_URL="localhost:29092")
    assert "KAFKA_BROKER_URL is localhost:29092: in a container that is the container itself" in said
    said = make("up", "ALERTS=1", folder=checkout(tmp_path / "b"), code=2, ALERT_URLS_FILE="gone")
    assert f"ALERT_URLS_FILE is {tmp_path}/b/gone: there is no such file" in said


def certs(folder: Path, code: int = 0, **environ: str) -> str:
    """Run a copy of compose/certs.sh in a folder, see that it ends with this code, and return what it printed."""
    (folder / "compose").mkdir(exist_ok=True)
    (folder / "compose/users.sh").touch()
    shutil.copy(ROOT / "compose/certs.sh", folder / "compose")
    ended = subprocess.run(
        ["compose/certs.sh"], cwd=folder, env=os.environ | environ, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def test_certificates_are_for_nobody_else(tmp_path: Path) -> None:
    """Whatever was there before, and wherever the shell looks for folders; a second run changes nothing."""
    secrets = tmp_path / "compose/secrets"
    (tmp_path / "elsewhere/compose/secrets").mkdir(parents=True)
    secrets.mkdir(parents=True)
    secrets.chmod(0o755)
    assert "Made a certificate" in certs(tmp_path, CDPATH=f"{tmp_path}/elsewhere")
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert not [*(tmp_path / "elsewhere/compose/secrets").iterdir()]
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    assert certs(tmp_path) == ""
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before


def test_certificates_that_cannot_be_made(tmp_path: Path) -> None:
    """It says what openssl says, such as that the CA's key is kept elsewhere, and leaves nothing half made."""
    certs(tmp_path)
    (tmp_path / "compose/secrets/ca.key").unlink()
    (tmp_path / "compose/secrets/broker.pem").unlink()
    assert "openssl x509 fails in " in (said := certs(tmp_path, code=1))
    assert "ca.key" in said
    assert not [path.name for path in (tmp_path / "compose/secrets").iterdir() if path.name.startswith("broker")]


def test_an_environment_without_python_is_made_anew(tmp_path: Path) -> None:
    """After an update of Python there may be links to nowhere; what works stays."""
    folder = checkout(tmp_path / "fraud")
    for name, python in ((".venv", tmp_path / "gone"), (".venv-watch", sys.executable)):
        (folder / name / "bin").mkdir(parents=True)
        (folder / name / "bin" / "ready").touch()
        (folder / name / "bin" / "python").symlink_to(python)
    for name in ("requirements-dev.txt", "demo/requirements.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    for environ in ({}, {"PYTHONHOME": "/nonexistent"}):
        assert "-m venv --clear .venv &&" in make("-n", ".venv/bin/ready", folder=folder, **environ)
        assert "is up to date" in make("-n", ".venv-watch/bin/ready", folder=folder, **environ)
    assert (folder / ".venv" / "bin" / "ready").exists()  # to look at what would be done changes nothing


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
