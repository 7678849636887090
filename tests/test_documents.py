"""README and docs, compared with the source: commands, variables, links, files and names."""

import ast
import json
import re
import shlex
import subprocess
from functools import cache, partial
from pathlib import Path

import pytest
import yaml

from bench import report, steps
from detector.rule import FRAUD, decide
from embedded.java import TOOLS
from embedded.pipeline import ROOT, ROUTES, Pipeline
from harness import AUDIT, PLAIN_LINE

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
]
COMPOSITIONS = sorted([*ROOT.glob("docker-compose*.yml"), *ROOT.glob("compose/*.yml")])
EXAMPLES = sorted(ROOT.glob("docs/examples/*/app.py"))
IGNORED = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@cache
def source(suffixes: tuple[str, ...] = (".py", ".yml", ".toml", ".in", ".txt", "Makefile", "Dockerfile")) -> str:
    """Return the text of everything that is no document, this file excepted."""
    files = [file for file in FILES if file.name.endswith(suffixes) and file.name != Path(__file__).name]
    return "\n".join((ROOT / file).read_text() for file in files)


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the lines of each block of code."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.M | re.S)
    return [(language, re.sub(rf"^{indent}", "", lines, flags=re.M)) for indent, language, lines in found]


def spans(text: str) -> list[str]:
    """Return what stands between backticks in the text, or within a link's."""
    found = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S))
    return [" ".join(span.split()) for span in found]


def commands(text: str) -> list[str]:
    """Return the command lines of the blocks."""
    return [
        line.removeprefix("$ ")
        for language, lines in blocks(text)
        if language == "console"
        for line in lines.splitlines()
        if line.startswith("$ ")
    ]


# --- commands ---


@each_document
def test_what_make_is_asked_for_is_there(document: Path) -> None:
    """Each `make …` names targets that `make` lists, and variables that the Makefile or a composition reads."""
    text = document.read_text()
    for line in [*spans(text), *commands(text)]:
        for words in re.findall(r"(?:^|[\s(])make((?: +[A-Za-z_-]+(?:=[^\s|]+)?)+)", line):
            for word in words.split():
                name, is_variable, _ = word.partition("=")
                if is_variable:
                    assert re.search(rf"\$\(.*\b{name}\b|^{name} \?=", MAKEFILE, re.M) or f"${{{name}" in source(), line
                else:
                    assert name in TARGETS, line


@each_document
def test_commands_can_be_typed(document: Path) -> None:
    """Bash can parse them; what they hand to Compose names files, services and tools that exist."""
    for command in commands(document.read_text()):
        subprocess.run(["bash", "-n", "-c", command], check=True, capture_output=True)
        for called in re.findall(r"docker(?:-| )compose ([^|;)]*)", command):
            check_compose(shlex.split(called.partition(" < ")[0].partition(" > ")[0]))


def check_compose(words: list[str]) -> None:
    """Fail where a file, a service, or a tool of Kafka's is not there."""
    files = []
    while words[0].startswith("-"):
        option, value, *words = words
        assert option in ("-f", "--project-directory"), words
        if option == "-f":
            files.append(value)
    files = files or ["docker-compose.yml"]
    services = {name for file in files for name in yaml.safe_load((ROOT / file).read_text())["services"]}
    subcommand, *rest = words
    names = [word for word in rest if not word.startswith("-") and not word.isdecimal() and "=" not in word]
    if subcommand == "exec":
        service, tool, *_ = names
        assert service in services, words
        assert tool in {*TOOLS, "zookeeper-shell", "bash", "sh"}, words
    else:
        assert subcommand in ("up", "down", "logs", "ps", "stop", "start", "restart", "config", "build", "run"), words
        assert set(names) <= services, words


KINDS = ("console", "mermaid", "python", "dockerfile", "yaml", "properties", "text", "json", "")


def test_the_blocks_are_of_kinds_that_are_looked_at() -> None:
    """A block of Python or of a Dockerfile is part of a source file."""
    for document in DOCUMENTS:
        for language, lines in blocks(document.read_text()):
            assert language in KINDS, document
            assert language not in ("python", "dockerfile") or lines.strip() in source(), lines


# --- names ---


def rows(text: str, first: str) -> list[list[str]]:
    """Return the cells of the tables whose heading begins so."""
    tables = re.findall(rf"^\| {first} \|.*\n\|[-| :]+\|\n((?:\|.*\n)+)", text, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


def variables_of(service: str) -> set[str]:
    """Return the names that a service looks up: itself, through `Environment`, or in the engine if it is a job."""
    files = [ROOT / service / "app.py", ROOT / "service/settings.py", ROOT / "service/log.py"]
    if re.search(r"^from exactly_once import .*\brun\b", files[0].read_text(), re.M):
        files.append(ROOT / "exactly_once/member.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {name for name in names if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name)}


def test_the_variables_are_those_that_are_read() -> None:
    """The README's table has each one that a service or the two compositions read, beside the right service."""
    table: dict[str, set[str]] = {}
    for service, variable, *_ in rows((ROOT / "README.md").read_text(), "service"):
        if "…" not in variable:  # those of docs/security.md
            table.setdefault(service, set()).add(variable.strip("`"))
    both = table.pop("both")
    read = {service: variables_of(service) for service in ("generator", "detector")}
    for service, names in read.items():
        assert both | table[service] == names
    assert both == read["generator"] & read["detector"]
    named = {
        name
        for file in ("docker-compose.yml", "docker-compose.kafka.yml")
        for name in re.findall(r"\$\{(\w+)", (ROOT / file).read_text())
    }
    assert named - read["generator"] - read["detector"] == table["compositions"]


def test_the_variables_have_the_values_of_compose() -> None:
    """The table's third column has what docker-compose.yml and the Dockerfiles set, or the compositions' default."""
    everything = "\n".join(file.read_text() for file in COMPOSITIONS)
    images = "\n".join((ROOT / service / "Dockerfile").read_text() for service in ("generator", "detector"))
    for _, variable, value, *_ in rows((ROOT / "README.md").read_text(), "service"):
        name, default = variable.strip("`"), value.strip("`")
        if value.startswith("`"):
            forms = (f"${{{name}:-{default}}}", f" {name}: {default}\n", f"{name}={default}")
            assert any(form in everything + images for form in forms), name
        else:
            assert not re.search(rf"\$\{{{name}:-\w", everything), name


def test_each_variable_of_a_composition_is_documented() -> None:
    """Whatever can be set in the shell stands in some document."""
    documented = "\n".join(document.read_text() for document in DOCUMENTS)
    for composition in COMPOSITIONS:
        for name in re.findall(r"(?<!\$)\$\{(\w+)", composition.read_text()):
            assert f"`{name}" in documented or f"{name}=" in documented, (composition.name, name)


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    """A link within the project names a file or folder that is in the repository, and a heading that is in the file."""
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        relative = path.relative_to(ROOT)
        assert relative in FILES or any(relative in file.parents for file in FILES), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", path.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@each_document
def test_files_and_names_that_are_quoted_exist(document: Path) -> None:
    """Between backticks: each file, test, and name in capitals is one of the project's."""
    for span in spans(document.read_text()):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.(py|yml|md|txt|toml|jsonl|json|in|svg)", span):
            assert any(f"/{file}".endswith(f"/{span}") for file in FILES), span
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)*/", span) or re.fullmatch(r"[a-z]+/tests", span):
            assert any(Path(span) in file.parents for file in FILES) or span.strip("/") in IGNORED, span
        elif re.fullmatch(r"test_\w+", span):
            assert f"def {span}(" in source(), span
        elif re.fullmatch(r"[A-Z]+(_[A-Z]+)+", span) and document.name != "from-the-tutorial.md":
            name = span.removesuffix("_FILE")  # what a variable holds can also be in a file
            assert re.search(rf"\b({span}|{name})\b", source()), span


@each_document
def test_topics_have_the_names_that_compose_gives_them(document: Path) -> None:
    """No document speaks of a topic that neither a composition nor an example does."""
    topic = r"\b(?:queueing|streaming)\.[a-z.-]*[a-z]"
    known = {name for file in [*COMPOSITIONS, *EXAMPLES] for name in re.findall(topic, file.read_text())}
    assert set(re.findall(topic, document.read_text())) <= known


def test_the_readme_names_each_topic() -> None:
    """In the table, the diagram, and as an example of how to look into it."""
    pipeline, text = Pipeline.of_compose(""), (ROOT / "README.md").read_text()
    topics = [cells[0].strip("`") for cells in rows(text, "topic")]
    assert topics == [pipeline.transactions, *pipeline.outputs]
    assert len(topics) == 1 + len(ROUTES)
    composition = (ROOT / "docker-compose.yml").read_text()
    for topic in topics:
        assert f"[/{topic}/]" in text
        assert f"--topic {topic}" in text
        assert f":-{topic}}}" in composition


# --- what is printed ---


def test_the_demo_prints_what_the_readme_shows() -> None:
    """The lines have the form of those that tests/test_demo.py finds in a real run, and their figures go together."""
    (shown,) = [lines for language, lines in blocks((ROOT / "README.md").read_text()) if "$ make demo" in lines]
    (line,) = re.findall(r"^transactions=.*$", shown, re.M)
    assert re.fullmatch(PLAIN_LINE, line)
    figures = {name: int(figure) for name, figure in re.findall(r"(\w+)=(\d+)(?= |$)", line)}
    assert sum(figures[route] for route in ROUTES) + figures["lag"] <= figures["transactions"]
    assert f"fraud={figures['fraud'] / sum(figures[route] for route in ROUTES):.1%}"[:-2] in line
    for text in AUDIT:
        assert re.search(rf"^{text}$", shown, re.M), text


def test_the_transactions_that_the_readme_shows_are_fraud() -> None:
    """What `make consume` of the topic prints is what the generator writes and the rule takes for fraud."""
    lines = re.findall(r"^\{.*\}$", (ROOT / "README.md").read_text(), re.M)
    assert lines
    for line in lines:
        assert decide(line.encode()).route == FRAUD
        assert list(json.loads(line)) == ["source", "target", "amount", "currency"]
        assert json.dumps(json.loads(line)) == line


def test_the_memory_limits_are_those_of_compose() -> None:
    """The runbook's table has each container with its limit."""
    services = {
        name: service
        for file in ("docker-compose.yml", "docker-compose.kafka.yml")
        for name, service in yaml.safe_load((ROOT / file).read_text())["services"].items()
    }
    limits = {cells[0].lower(): cells[3] for cells in rows((ROOT / "docs/operations.md").read_text(), "container")}
    for name, service in services.items():
        assert limits[name] == service["mem_limit"].replace("m", " MB").replace("g", " GB")


def test_the_page_of_figures_is_the_one_that_is_generated(tmp_path: Path) -> None:
    """docs/performance.md is what `python -m bench report` makes of bench/results.json."""
    report.write(ROOT / "bench/results.json", tmp_path / "performance.md")
    assert (tmp_path / "performance.md").read_text() == (ROOT / "docs/performance.md").read_text()


def test_the_tables_in_other_pages_are_those_that_are_generated(tmp_path: Path) -> None:
    """They are what `python -m bench report` makes of the files of results: nothing in them is typed."""
    results, clusters = ROOT / "bench/results.json", ROOT / "docs/clusters.md"
    for page, write in (
        (clusters, partial(report.write_failover, results)),
        (steps.PAGE, partial(report.insert, text=steps.block(results))),
    ):
        copy = tmp_path / page.name
        copy.write_text(page.read_text())
        write(copy)
        assert copy.read_text() == page.read_text()
    assert steps.block(results) in steps.PAGE.read_text()


# --- the ways in ---


def test_the_readme_can_be_read_at_once() -> None:
    """It has 170 lines at most."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_the_contents_name_each_document() -> None:
    """docs/README.md has every document and schema in the folder, once."""
    named = re.findall(r"\]\(([\w.-]+)\)", (ROOT / "docs/README.md").read_text())
    there = [file.name for file in FILES if file.parent == Path("docs") and file.suffix in (".md", ".json")]
    assert sorted(named) == sorted(set(there) - {"README.md"})


def definitions(file: Path) -> set[str]:
    """Return the names that a module defines at its top, and those of its classes' methods."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {node.name, *(f"{node.name}.{one.name}" for one in node.body if hasattr(one, "name"))}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def test_the_life_of_a_record_is_that_of_the_code() -> None:
    """Each step names a file that exists, and functions and classes that stand there."""
    cells = re.findall(
        r"^\| \d+ \| \[(\S+)\]\(\.\./(\S+)\) \| (`.*?`) \|", (ROOT / "docs/life-of-a-record.md").read_text(), re.M
    )
    assert len(cells) == 20
    for shown, file, names in cells:
        assert shown == file
        assert set(re.findall("`(.+?)`", names)) <= definitions(ROOT / file), file


def test_the_steps_are_as_long_as_is_said() -> None:
    """The tutorial's loop has 33 lines, and what is to be taken home 90 at most."""
    lengths = {
        file.name: len((ROOT / file).read_text().splitlines()) for file in FILES if file.match("docs/steps/*.py")
    }
    assert list(lengths) == sorted(lengths)
    text = (ROOT / "docs/from-the-tutorial.md").read_text()
    for name, lines in re.findall(r"^\[(\w+\.py)\]\(steps/\1\), (\d+) lines", text, re.M):
        assert lengths[name] == int(lines)
    assert lengths["step3_transactions.py"] <= 90
    assert len(lengths) == 4
