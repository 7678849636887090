"""The generator's metrics for Prometheus. docs/monitoring.md says what each means."""

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from generator.delivery import Delivery
from service.metrics import serve


class Figures:
    """Answers scrapers with what has been delivered."""

    def __init__(self, port: int, delivery: Delivery, target_rate: float) -> None:
        """Listen. Raises ConfigurationError if the port is not available."""
        self.delivery, self.target_rate = delivery, target_rate
        REGISTRY.register(self)
        serve(port, "generator")

    def collect(self) -> Iterator[Metric]:
        """Yield the current figures."""
        delivery = self.delivery
        yield CounterMetricFamily("generator_delivered", "Transactions acknowledged", value=delivery.delivered)
        yield CounterMetricFamily("generator_failed", "Transactions not delivered", value=delivery.failed)
        yield GaugeMetricFamily("generator_in_flight", "Transactions not acknowledged yet", len(delivery.in_flight))
        yield GaugeMetricFamily("generator_target_rate", "Transactions per second asked for", self.target_rate)
