"""Run Kafka in the foreground, or one of its console tools, out of the locked jars."""

import argparse
import os
import signal
import sys
import time

from embedded import KAFKA_3, KAFKA_4, Cluster, JarError, Line, PortTakenError, ServerError, archive, jars
from embedded.java import TOOLS, tool_command
from embedded.secure import SecuredCluster


def main() -> int:
    """Do what the command line says and return the exit code: 2 for a taken port, 1 for any other error."""
    try:
        if sys.argv[1:2] and sys.argv[1] in TOOLS:
            command = tool_command(*sys.argv[1:])
            os.execvp(command[0], command)  # The tool takes this process over: its streams, signals and exit code.
        arguments = _parse()
        line = KAFKA_3 if arguments.zookeeper else KAFKA_4
        if arguments.command == "prepare":
            print(f"{len(jars.prepare(line))} jars of Kafka {line.version} are ready in {jars.cache_folder()}")
        elif arguments.command == "archive":
            archive_classes(line)
        elif arguments.command == "lock":
            jars.lock(line)
        elif arguments.secure:
            _run(SecuredCluster(arguments.port, line))
        else:
            _run(Cluster(arguments.brokers, arguments.port, line=line))
    except (JarError, PortTakenError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, PortTakenError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse() -> argparse.Namespace:
    tools = ", ".join(TOOLS)
    parser = argparse.ArgumentParser(
        prog="python -m embedded", description=__doc__, epilog=f"Console tools, with their own options: {tools}"
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["run", "prepare", "archive", "lock"],
        default="run",
        help="run a cluster until Ctrl-C (default), or only download the jars, or make brokers start twice as fast "
        "or resolve the jars anew and lock them",
    )
    parser.add_argument("--port", type=int, default=9092, help="port of the first broker (default: 9092)")
    parser.add_argument("--brokers", type=int, default=1, help="number of brokers (default: 1)")
    parser.add_argument(
        "--secure", action="store_true", help="one broker that asks for TLS, SCRAM-SHA-512 and permissions"
    )
    parser.add_argument(
        "--zookeeper", action="store_true", help=f"Kafka {KAFKA_3.version} with ZooKeeper, not Kafka {KAFKA_4.version}"
    )
    arguments = parser.parse_args()
    if arguments.secure and arguments.brokers > 1:
        parser.error("--secure is for one broker")
    return arguments


def archive_classes(line: Line) -> None:
    """Make the archive of a line's classes where it is absent."""
    class_path = jars.prepare(line)
    if not archive.path_of(class_path).exists():
        with Cluster(line=line) as cluster:
            archive.make(cluster.brokers[0].pid, class_path)


def _run(kafka: Cluster) -> None:
    # Both end the block below in the same way. SIGINT too, because a shell's background jobs start with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with kafka as cluster:
            print(
                f"Kafka {cluster.line.version} is ready: bootstrap servers {cluster.bootstrap_servers}. "
                "Ctrl-C ends it and deletes its data.",
                flush=True,
            )
            if isinstance(cluster, SecuredCluster):
                print("That is an open listener, to administer it. The users, still without any permission:")
                for user in cluster.users:
                    print(" ".join(f"{name}={value}" for name, value in cluster.environ(user).items()), flush=True)
            while True:
                for server in cluster.servers:
                    server.check()
                time.sleep(1)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
