"""Alerter: tells people what the alerts topic says, at least once each."""

import os
import re
import sys
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kafka import KafkaAdminClient, TopicPartition, errors
from kafka.structs import OffsetAndMetadata

from alerter.alerts import alert_of
from alerter.receivers import Receiver, receivers_of
from exactly_once import Input
from exactly_once.consumer import Consumer
from exactly_once.kafka_python import connect
from exactly_once.places import ANSWER_MS
from exactly_once.producer import OURS
from exactly_once.topics import INPUT_PERMISSIONS, NotYet, describe
from service.log import REPORT_SECONDS, log, set_up_logging, touch
from service.settings import Cluster, ConfigurationError, Environment
from service.stopping import Stopping

MOST_WAITING = 10_000
"""While this many alerts wait for one receiver, no more are read; a portion may be on top."""

TURN_SECONDS, LAST_ATTEMPT_SECONDS, STEP_SECONDS = 60, 15, 0.2
CLOSE_MS = 3000


@dataclass(frozen=True)
class Settings:
    """The values from the environment, checked."""

    cluster: Cluster
    alerts_topic: str
    consumer_group: str
    urls: tuple[str, ...] = field(repr=False)
    """The receivers' addresses, for Apprise. They contain passwords and tokens."""
    alerts_per_minute: int
    heartbeat_file: str
    metrics_port: int

    @classmethod
    def from_env(cls, environment: Environment) -> "Settings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        return cls(
            environment.cluster(),
            environment.topic("ALERTS_TOPIC", "streaming.alerts"),
            environment.name("CONSUMER_GROUP", "alerter"),
            tuple(re.split(r"\s+|,(?=\w+://)", urls)) if (urls := environment.secret("ALERT_URLS")) else (),
            int(environment.text("ALERTS_PER_MINUTE", "[1-9][0-9]{0,3}", "a whole number from 1 to 9999", "10")),
            environment.heartbeat_file(),
            environment.metrics_port(),
        )


class Alerter:
    """Reads records, tells every receiver, and commits what all of them have confirmed."""

    def __init__(self, settings: Settings, receivers: list[Receiver], stopping: Stopping) -> None:
        """Join the group. Raises KafkaError."""
        self.settings, self.receivers, self.stopping = settings, receivers, stopping
        self.read_to: dict[TopicPartition, int] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.ticked_at = time.monotonic()
        topic = [Input(settings.alerts_topic)]
        self.consumer = Consumer(settings.cluster, stopping, settings.consumer_group, topic, self.on_assignment)

    def run(self) -> None:
        """Work until a signal comes. Raises KafkaError; TimeoutError if a receiver hangs."""
        while not self.stopping.is_set:
            self.stopping.rearm(TURN_SECONDS)
            attempts = [receiver.attempt for receiver in self.receivers if receiver.attempt]
            wait(attempts, STEP_SECONDS, FIRST_COMPLETED)
            self.read(wait=not attempts)
            for receiver in self.receivers:
                receiver.step()
            self.commit()
            self.tick()
        wait([receiver.attempt for receiver in self.receivers if receiver.attempt], LAST_ATTEMPT_SECONDS)
        for receiver in self.receivers:
            receiver.note()
        self.commit()
        self.consumer.client.close(timeout_ms=CLOSE_MS)

    def on_assignment(self, committed: Mapping[TopicPartition, int | None]) -> None:
        """Start afresh: what is not committed is read again, by whoever has the partition now."""
        self.read_to, self.committed = {}, {}
        for receiver in self.receivers:
            receiver.waiting.clear()

    def read(self, wait: bool) -> None:
        """Hand the next records to every receiver. Always polls, which keeps this instance in its group."""
        is_full = any(len(receiver.waiting) >= MOST_WAITING for receiver in self.receivers)
        client: Any = self.consumer.client
        (client.pause if is_full else client.resume)(*client.assignment())
        portion = self.consumer.read(wait, is_full)
        self.read_to |= portion.offsets
        for source, record in portion.records():
            try:
                alert = alert_of(source, record)
                for receiver in self.receivers:
                    receiver.waiting[source, record.offset] = alert
            except ValueError as error:
                log.warning("%s[%d]: passed over offset %d: %s", *source, record.offset, error)

    def commit(self) -> None:
        """Commit, for each partition, the offset before which all receivers have confirmed everything."""
        offsets = self.read_to.copy()
        for receiver in self.receivers:
            for partition, offset in receiver.waiting:
                offsets[partition] = min(offset, offsets[partition])
        news = {partition: n for partition, n in offsets.items() if n != self.committed.get(partition)}
        if not news or not self.consumer.generation:
            return
        try:
            self.consumer.client.commit({p: OffsetAndMetadata(n, OURS) for p, n in news.items()}, ANSWER_MS)
            self.consumer.places.note(news)
            self.committed |= news
        except (errors.CommitFailedError, errors.RebalanceInProgressError):
            log.info("The group is being rebalanced: some alerts may be told again")

    def tick(self) -> None:
        """Touch the heartbeat file every few seconds if all is well. Raises KafkaError."""
        if time.monotonic() - self.ticked_at < REPORT_SECONDS:
            return
        self.ticked_at = time.monotonic()
        is_there = self.settings.alerts_topic in self.consumer.client.topics()  # Kafka answers, and nobody deleted it
        if is_there and self.consumer.generation and not any(receiver.is_stuck for receiver in self.receivers):
            touch(self.settings.heartbeat_file)


def wait_for_topic(settings: Settings, stopping: Stopping) -> None:
    """Wait until the topic is there. Ends the process, with exit code 0, if a signal comes first.

    Raises KafkaError if a permission is missing.
    """
    with closing(connect(KafkaAdminClient, settings.cluster, stopping)) as admin:
        while True:
            try:
                describe(admin, [settings.alerts_topic], INPUT_PERMISSIONS)
                return
            except NotYet as missing:
                log.warning("There is no topic %s yet: create it, or start what does", missing)
            for _ in range(10):
                time.sleep(0.1)
                if stopping.is_set:
                    sys.exit(0)


def main() -> NoReturn:
    """End with the exit code 0 after a signal, 1 if Kafka failed or a receiver hung, 2 for bad configuration."""
    set_up_logging("alerter")
    stopping, exit_code = Stopping(), 0
    try:
        settings = Settings.from_env(Environment(os.environ))
        receivers = receivers_of(settings.urls, settings.alerts_per_minute)
        if settings.metrics_port:
            from service.metrics import serve  # imported only if wanted: it costs memory, and opens a port

            serve(settings.metrics_port, "alerter", lambda: Receiver.figures(receivers))
        log.info("Starting with %s, telling %s", settings, ", ".join(receiver.name for receiver in receivers))
        with suppress(SystemExit):  # signalled while it was connecting
            wait_for_topic(settings, stopping)
            Alerter(settings, receivers, stopping).run()
        log.info("Stopped")
    except ConfigurationError as error:
        log.error("%s", error)
        sys.exit(2)
    except Exception as error:  # an unexpected error's text may quote an address
        if isinstance(error, errors.KafkaTimeoutError | errors.RequestTimedOutError):
            reason = "Kafka does not answer"
        elif isinstance(error, errors.GroupAuthorizationFailedError):
            reason = f"no permission for READ on the group {settings.consumer_group}: allow it to the user"
        elif isinstance(error, errors.KafkaError | TimeoutError):
            reason = str(error).removeprefix("KafkaError: ")
        else:
            reason = f"an unexpected {type(error).__name__}"
        log.error("Ending, a restart continues from the committed offsets: %s", reason)
        exit_code = 1
    os._exit(exit_code)  # on a normal return the process would wait for a receiver that hangs


if __name__ == "__main__":
    main()
