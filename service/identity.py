"""Which Kafka cluster this is. A name can lead to another one: of another project on the same network, for example."""

import os

from service.log import log


class Identity:
    """The cluster that answers first. The process ends when another one answers to the same configuration.

    Otherwise some of its clients would be in one cluster and some in the other, and all of them content.
    """

    def __init__(self) -> None:
        self.id = self.address = ""
        self.is_compared = False
        """Whether each address has been asked."""

    def check(self, id: str, address: str) -> None:
        """Take note of the id that a broker at this address tells, "" for none. Returns if it is the same cluster.

        Called before anything else goes to that broker, in the network's thread, whose errors would only be retried.
        """
        if id and not self.id:
            self.id, self.address = id, address
        if id and id != self.id:
            log.error(
                "Kafka failed, ending: KAFKA_BROKER_URL leads to two clusters, %s at %s and %s at %s. Does another"
                " project's broker have the same name on this network? Give each a name or a network of its own",
                *(ascii(self.id[:40]), self.address, ascii(id[:40]), address),
            )
            os._exit(1)
