"""GET /metrics: figures in Prometheus' text form.

A figure is a name and a function that reads it when it is asked for: nothing is counted twice, and nothing is done
while nobody looks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from wukong.api import answers
from wukong.api.request import GET, route
from wukong.histogram import Histogram
from wukong.service.history import History

GAUGE = "gauge"
COUNTER = "counter"
HISTOGRAM = "histogram"


class Figure(NamedTuple):
    """kind: GAUGE; COUNTER for what only grows, whose name gets `_total`; HISTOGRAM, whose read gives one.
    labels: names of the labels, then read gives label values -> number."""

    name: str
    help: str
    kind: str
    read: Callable[[], float | Histogram | Mapping[tuple[str, ...], float]]
    labels: tuple[str, ...] = ()


class FigureCollector(Collector):
    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = list(figures)

    def collect(self) -> Iterator[Metric]:
        for figure in self._figures:
            found = figure.read()
            if isinstance(found, Histogram):
                yield _family(figure, found)
                continue
            family: CounterMetricFamily | GaugeMetricFamily
            if figure.kind == COUNTER:
                family = CounterMetricFamily(figure.name, figure.help, labels=figure.labels)
            else:
                family = GaugeMetricFamily(figure.name, figure.help, labels=figure.labels)
            if isinstance(found, Mapping):
                for labels, value in found.items():
                    family.add_metric(labels, value)
            else:
                family.add_metric((), found)
            yield family


def _family(figure: Figure, histogram: Histogram) -> HistogramMetricFamily:
    """Prometheus wants, for each bound, how many values were not larger."""
    ends = [*map(str, map(float, histogram.bounds)), "+Inf"]
    buckets = list(zip(ends, accumulate(list(histogram.counts)), strict=True))
    return HistogramMetricFamily(figure.name, figure.help, buckets=buckets, sum_value=histogram.total)


def registry_of(figures: Iterable[Figure]) -> CollectorRegistry:
    """A registry of its own, with the figures of the process: two servers in one process do not meet."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(FigureCollector(figures))
    return registry


class HistoryRoutes:
    def __init__(self, history: History) -> None:
        self._history = history

    def routes(self) -> list[web.RouteDef]:
        return [route(GET, "/history", self.history)]

    async def history(self, request: web.Request) -> web.Response:
        return answers.bare(self._history.shape())


class MetricsRoutes:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def routes(self) -> list[web.RouteDef]:
        return [route(GET, "/metrics", self.metrics)]

    async def metrics(self, request: web.Request) -> web.Response:
        return answers.text(generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)
