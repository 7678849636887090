"""Alerter: tells people what the alerts topic says, at least once each."""

import logging
import os
import signal
import time
from concurrent.futures import wait
from pathlib import Path
from threading import Event
from typing import Any

from kafka import TopicPartition, errors
from kafka.structs import MemberState, OffsetAndMetadata

from alerts import alert_of
from client import connect
from receivers import Receiver, receivers_of
from settings import ConfigurationError, Settings

MOST_WAITING = 10_000
"""While this many alerts wait for one receiver, no more are read."""

POLL_MS, ANSWER_MS, CLOSE_MS = 200, 20_000, 3000
HEARTBEAT_SECONDS, REJOIN_SECONDS, LAST_ATTEMPT_SECONDS = 5, 15, 15

log = logging.getLogger("alerter")


class Alerter:
    """Reads records, tells every receiver, and commits what all of them have confirmed."""

    def __init__(self, settings: Settings, receivers: list[Receiver], consumer: Any) -> None:
        self.settings, self.receivers, self.consumer = settings, receivers, consumer
        self.committed: dict[TopicPartition, int] = {}
        self.stable_at = self.ticked_at = time.monotonic()
        consumer.subscribe(sorted(settings.topics))
        consumer.topics()  # otherwise the client may believe that they have no partitions, and stay idle

    def run(self, stopping: Event) -> None:
        """Work until a signal comes. Raises KafkaError; TimeoutError if a receiver hangs."""
        while not stopping.is_set():
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
        for partition, records in self.consumer.poll(timeout_ms=POLL_MS).items():
            for record in records:
                try:
                    if alert := alert_of(record, self.settings):
                        for receiver in self.receivers:
                            receiver.waiting[partition, record.offset] = alert
                except ValueError as error:
                    log.warning("%s[%d]: passed over offset %d: %s", *partition, record.offset, error)

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
        if now - self.ticked_at < HEARTBEAT_SECONDS:
            return
        self.ticked_at = now
        is_well &= self.settings.topics <= self.consumer.topics()  # Kafka answers, and nobody has deleted them
        if self.settings.heartbeat_file and is_well and not any(receiver.is_stuck for receiver in self.receivers):
            try:
                Path(self.settings.heartbeat_file).touch()
            except OSError as error:
                log.warning("HEARTBEAT_FILE %s cannot be written: %s", self.settings.heartbeat_file, error.strerror)


def main() -> int:
    """Return the exit code: 0 after a signal, 1 if Kafka failed or a receiver hung, 2 for bad configuration."""
    # Only our own log: apprise and its libraries quote addresses, and the Kafka client logs too much.
    logging.basicConfig(level=logging.CRITICAL, format="%(asctime)s %(levelname)s %(message)s")
    logging.captureWarnings(True)
    log.setLevel(logging.INFO)
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        settings = Settings.from_env(os.environ)
        receivers = receivers_of(settings)
        log.info("Starting with %s, telling %s", settings, ", ".join(receiver.name for receiver in receivers))
        if consumer := connect(settings, stopping):
            Alerter(settings, receivers, consumer).run(stopping)
        log.info("Stopped")
        return 0
    except ConfigurationError as error:
        log.error("%s", error)
        return 2
    except Exception as error:  # an unexpected error's text may quote an address
        if isinstance(error, errors.KafkaTimeoutError | errors.RequestTimedOutError):
            reason = "Kafka does not answer"
        elif isinstance(error, errors.KafkaError | TimeoutError):
            reason = str(error).removeprefix("KafkaError: ")
        else:
            reason = f"an unexpected {type(error).__name__}"
        log.error("Ending, a restart continues from the committed offsets: %s", reason)
        return 1


if __name__ == "__main__":
    os._exit(main())  # on a normal return the process would wait for a receiver that hangs
