"""Alerter: tells people what the alerts topic says, at least once each."""

import os
import re
import sys
import time
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kafka import TopicPartition, errors
from kafka.structs import MemberState, OffsetAndMetadata

from alerter.alerts import alert_of
from alerter.receivers import Receiver, receivers_of
from exactly_once.unpacking import records_of
from exactly_once.whole_batches import join
from service.log import REPORT_SECONDS, log, set_up_logging, touch
from service.settings import NUMBER, Cluster, ConfigurationError, Environment
from service.stopping import Stopping

MOST_WAITING = 10_000
"""While this many alerts wait for one receiver, no more are read."""

FETCH_BYTES = 1024 * 1024
POLL_MS, ANSWER_MS, CLOSE_MS = 200, 20_000, 3000
REJOIN_SECONDS, LAST_ATTEMPT_SECONDS, RETRY_SECONDS = 15, 15, 1


@dataclass(frozen=True)
class Settings:
    """The values from the environment, checked."""

    cluster: Cluster
    alerts_topic: str
    fraud_topic: str
    """Empty if only alerts are read."""
    alert_amount: float
    """Frauds of this amount or more are reported as well, in any currency."""
    consumer_group: str
    urls: tuple[str, ...] = field(repr=False)
    """The receivers' addresses, for Apprise. They contain passwords and tokens."""
    alerts_per_minute: int
    heartbeat_file: str

    @property
    def topics(self) -> set[str]:
        """The topics to read."""
        return {self.alerts_topic, self.fraud_topic} - {""}

    @classmethod
    def from_env(cls, environment: Environment) -> "Settings":
        """Read the settings. Raises ConfigurationError at the first variable that is missing or malformed."""
        read = environment.text
        amount = read("ALERT_AMOUNT", rf"inf|{NUMBER}", "a number above 0, such as 1000, or leave it out", "inf")
        example = "streaming.transactions.fraud, or leave out ALERT_AMOUNT"
        return cls(
            environment.cluster(),
            environment.topic("ALERTS_TOPIC", "streaming.alerts"),
            "" if amount == "inf" else environment.topic("FRAUD_TOPIC", example),
            float(amount),
            environment.name("CONSUMER_GROUP", "alerter"),
            tuple(re.split(r"\s+|,(?=\w+://)", urls)) if (urls := environment.secret("ALERT_URLS")) else (),
            int(read("ALERTS_PER_MINUTE", "0*[1-9][0-9]{0,5}", "a whole number above 0", "10")),
            environment.heartbeat_file(),
        )


class Alerter:
    """Reads records, tells every receiver, and commits what all of them have confirmed."""

    def __init__(self, settings: Settings, receivers: list[Receiver], consumer: Any) -> None:
        self.settings, self.receivers, self.consumer = settings, receivers, consumer
        self.committed: dict[TopicPartition, int] = {}
        self.stable_at = self.ticked_at = time.monotonic()
        consumer.subscribe(sorted(settings.topics))
        consumer.topics()  # otherwise the client may believe that they have no partitions, and stay idle

    def run(self, stopping: Stopping) -> None:
        """Work until a signal comes. Raises KafkaError; TimeoutError if a receiver hangs."""
        while not stopping.is_set:
            self.read()
            for receiver in self.receivers:
                receiver.step()
            self.commit()
            self.tick()
        wait([receiver.attempt for receiver in self.receivers if receiver.attempt], LAST_ATTEMPT_SECONDS)
        for receiver in self.receivers:
            receiver.note()
        self.commit()
        self.consumer.close(timeout_ms=CLOSE_MS)

    def read(self) -> None:
        """Hand the next records to every receiver. Always polls, which keeps this instance in its group."""
        is_full = any(len(receiver.waiting) >= MOST_WAITING for receiver in self.receivers)
        (self.consumer.pause if is_full else self.consumer.resume)(*self.consumer.assignment())
        for source, record in records_of(self.consumer.poll(timeout_ms=POLL_MS)):
            is_fraud = source.topic == self.settings.fraud_topic
            try:
                alert = alert_of(source, record, self.settings.alert_amount if is_fraud else None)
                if alert:
                    for receiver in self.receivers:
                        receiver.waiting[source, record.offset] = alert
            except ValueError as error:
                log.warning("%s[%d]: passed over offset %d: %s", *source, record.offset, error)

    def commit(self) -> None:
        """Commit, for each partition, the offset before which all receivers have confirmed everything."""
        assigned = self.consumer.assignment()
        offsets = {partition: self.consumer.position(partition, timeout_ms=0) or 0 for partition in assigned}
        for receiver in self.receivers:
            for partition, offset in list(receiver.waiting):
                if partition in offsets:
                    offsets[partition] = min(offset, offsets[partition])
                else:  # another instance has it now
                    del receiver.waiting[partition, offset]
        news = {partition: n for partition, n in offsets.items() if n > self.committed.get(partition, 0)}
        try:
            self.consumer.commit({partition: OffsetAndMetadata(n) for partition, n in news.items()}, ANSWER_MS)
            self.committed |= news
        except (errors.CommitFailedError, errors.RebalanceInProgressError):
            log.info("The group is being rebalanced: some alerts may be told again")

    def tick(self) -> None:
        """Touch the heartbeat file every few seconds if all is well. Raises KafkaError if kept out of the group."""
        now, is_well = time.monotonic(), self.consumer.group_metadata().state == MemberState.STABLE
        self.stable_at = now if is_well else self.stable_at
        if now - self.stable_at > REJOIN_SECONDS:
            raise errors.KafkaError(f"this instance does not get into the group {self.settings.consumer_group}")
        if now - self.ticked_at < REPORT_SECONDS:
            return
        self.ticked_at = now
        is_well &= self.settings.topics <= self.consumer.topics()  # Kafka answers, and nobody has deleted them
        if is_well and not any(receiver.is_stuck for receiver in self.receivers):
            touch(self.settings.heartbeat_file)


def start(settings: Settings, receivers: list[Receiver], stopping: Stopping) -> None:
    """Wait for Kafka and the topics, and work until a signal. Raises KafkaError; TimeoutError if a receiver hangs."""
    consumer = join(settings.cluster, stopping, settings.consumer_group, FETCH_BYTES, auto_offset_reset="earliest")
    while missing := settings.topics - consumer.topics():
        log.warning("Kafka shows no topic %s yet: create it, or start what does", " and ".join(sorted(missing)))
        for _ in range(10):
            time.sleep(RETRY_SECONDS / 10)
            if stopping.is_set:
                return
    Alerter(settings, receivers, consumer).run(stopping)


def main() -> NoReturn:
    """End with the exit code 0 after a signal, 1 if Kafka failed or a receiver hung, 2 for bad configuration."""
    set_up_logging()
    stopping, exit_code = Stopping(), 0
    try:
        settings = Settings.from_env(Environment(os.environ))
        receivers = receivers_of(settings.urls, settings.alerts_per_minute)
        log.info("Starting with %s, telling %s", settings, ", ".join(receiver.name for receiver in receivers))
        with suppress(SystemExit):  # signalled while it was connecting
            start(settings, receivers, stopping)
        log.info("Stopped")
    except ConfigurationError as error:
        log.error("%s", error)
        sys.exit(2)
    except Exception as error:  # an unexpected error's text may quote an address
        if isinstance(error, errors.KafkaTimeoutError | errors.RequestTimedOutError):
            reason = "Kafka does not answer"
        elif isinstance(error, errors.KafkaError | TimeoutError):
            reason = str(error).removeprefix("KafkaError: ")
        else:
            reason = f"an unexpected {type(error).__name__}"
        log.error("Ending, a restart continues from the committed offsets: %s", reason)
        exit_code = 1
    os._exit(exit_code)  # on a normal return the process would wait for a receiver that hangs


if __name__ == "__main__":
    main()
