"""`python -m demo.dashboard`: the page, for a pipeline that runs already. It uses the detector's variables."""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import closing

from kafka.errors import KafkaError

from demo.observer import Observer
from demo.page import Page
from demo.web import PORT, PageError, serving
from embedded.pipeline import Pipeline
from service import access
from service.log import log, set_up_logging
from service.settings import ConfigurationError, Environment


def observe(page: Page, pipeline: Pipeline) -> None:
    """Read the pipeline for ever, from now on; whatever happens to Kafka is shown."""
    away = f"Kafka does not answer at {pipeline.broker_url}"
    while True:
        try:
            with closing(Observer(pipeline, from_start=False)) as observer:
                while True:
                    try:
                        observer.poll(0.25)
                        page.take(observer)
                    except KafkaError:  # its positions are kept, so nothing is missed
                        page.fail(away)
        except KafkaError:
            page.fail(away)
        except LookupError as error:
            page.fail(str(error))
        time.sleep(1)


def main() -> int:
    """Serve until SIGINT or SIGTERM, and return the exit code: 2 for bad configuration."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    set_up_logging("dashboard")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # the page shows it
    try:
        environment = Environment(os.environ)
        pipeline = Pipeline.from_env(environment)
        port = int(environment.text("WEB_PORT", access.PORT, "a port from 1 to 65535", str(PORT)))
    except ConfigurationError as error:
        log.error("%s", error)
        return 2
    page = Page(pipeline.broker_url)
    try:
        with serving(page, "0.0.0.0", port):
            log.info("The page is at http://localhost:%d", port)
            # In a thread: a signal inside the client would leave it in an endless loop.
            observer = threading.Thread(target=observe, args=(page, pipeline), daemon=True)
            observer.start()
            observer.join()
            return 1  # for an unexpected error, which has been printed
    except PageError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.info("Stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
