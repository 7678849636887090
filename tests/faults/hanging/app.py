"""Our detector with functions that never return: HANG names them. The watchdog need not be waited for."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[3]))

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher

from detector.app import branching
from exactly_once import consumer, loop, progress, run

HANG = os.environ["HANG"].split()


def hang(*args: Any, **options: Any) -> NoReturn:
    """Say so, and sleep for ever; if the watchdog is to come at all, it comes soon."""
    print("Hanging", flush=True)
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.setitimer(signal.ITIMER_REAL, 2)
    while True:
        time.sleep(1000)


if "start" in HANG:
    KafkaConsumer.topics = hang

if "poll" in HANG:
    KafkaConsumer.poll = hang

if "rewind" in HANG:
    KafkaConsumer.beginning_offsets = hang

if "fetch" in HANG:
    Fetcher._fetchable_partitions = lambda fetcher: []
    progress.UNREAD_CHECKS = 2

if "close" in HANG:
    consumer.Consumer.close = hang

if "explain" in HANG:
    loop.explain = hang

run("detector", branching, group="fraud-detector")
