"""The metrics: one table, counted in plain dicts by the workers, exposed by the supervisor.

A worker only adds numbers to a `Counts`; the supervisor takes each worker's counts over, adds them
up in a `Registry` and renders them with prometheus-client on a scrape. Tokens and money are not
counted on the way of a call at all: the supervisor reads them off the ledger rows that it commits,
so that the metric and the ledger cannot disagree, whichever worker was killed when.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.core.money import NANO_PER_USD
from gateway.core.row import LedgerRow

OTHER: Final = "_other"
_MADE_UP: Final = frozenset({"agent", "team", "cost_center", "model", "field"})
"""Labels whose values grow with the agents, or are theirs to choose."""
_FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_SLOW: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)


@dataclass(frozen=True, slots=True)
class Declared:
    """One line of the table. A counter of money is kept in nano-USD and divided once, when shown."""

    kind: str  # counter | gauge | histogram
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    money: bool = False


_ACCOUNT: Final = ("agent", "team", "cost_center", "provider", "model")

METRICS: Final[dict[str, Declared]] = {
    "requests": Declared(
        "counter",
        "Calls answered, by outcome and HTTP status.",
        ("agent", "team", "kind", "target", "provider", "outcome", "status"),
    ),
    "refusals": Declared("counter", "Answers the gateway gave itself, by code.", ("agent", "code")),
    "refusal_repeats": Declared("counter", "Refusals that kept the decision id of an identical one before them."),
    "overhead_seconds": Declared("histogram", "Time of a call spent in the gateway itself.", (), _FAST),
    "upstream_seconds": Declared("histogram", "Time an attempt took upstream.", ("provider",), _SLOW),
    "first_byte_seconds": Declared("histogram", "Time until the first byte of a stream left.", ("provider",), _SLOW),
    "inflight": Declared("gauge", "Calls on their way through the gateway."),
    "tokens": Declared("counter", "Tokens by disjoint type.", (*_ACCOUNT, "type")),
    "spend_usd": Declared("counter", "Money spent, as the ledger has it.", _ACCOUNT, money=True),
    "policy_decisions": Declared("counter", "Rules that took part in decisions.", ("policy", "rule", "effect", "mode")),
    "approvals": Declared("counter", "What became of held calls.", ("status",)),
    "attestations": Declared("counter", "Attestations recorded, each once.", ("step", "outcome", "source")),
    "steps": Declared("counter", "Steps of runs, by outcome.", ("outcome",)),
    "upstream_attempts": Declared("counter", "Attempts to reach an upstream.", ("provider", "model", "result")),
    "usage_unknown_fields": Declared("counter", "Usage fields the gateway does not know.", ("provider", "field")),
    "price_unknown": Declared("counter", "Attempts metered without a known price.", ("provider", "model")),
    "store_seconds": Declared("histogram", "Time of the durable store's operations.", ("operation",), _FAST),
    "ledger_queue": Declared("gauge", "Ledger rows not committed yet."),
    "workers": Declared("gauge", "Workers that serve."),
    "worker_restarts": Declared("counter", "Workers replaced after they died."),
    "config_last_reload_successful": Declared("gauge", "1 when the last reload of the configuration was taken."),
    "config_last_reload_success_timestamp_seconds": Declared("gauge", "When a configuration was last taken."),
    "price_book_age_seconds": Declared("gauge", "Age of the shipped price book."),
    "jwks_age_seconds": Declared("gauge", "Time since an issuer's keys were last fetched or read.", ("issuer",)),
    "tls_cert_expiry_timestamp_seconds": Declared("gauge", "When a listener's certificate ends.", ("listener",)),
    "series_dropped": Declared("counter", "Label sets folded into _other at telemetry.max_series."),
    "build_info": Declared("gauge", "The running version.", ("version",)),
}
"""Name (without `passgate_` and a counter's `_total`) → what it is. What later work measures joins here."""


class Histogram(NamedTuple):
    """Counts per bucket (the last one is +Inf) and the sum of what was observed."""

    counts: list[int]
    sum: list[float]  # of one element, so that it can be added to in place


Labels = tuple[str, ...]


class Counts:
    """What one worker counted since it last handed its counts over."""

    def __init__(self) -> None:
        """Start empty."""
        self.counters: dict[tuple[str, Labels], int] = {}
        self.histograms: dict[tuple[str, Labels], Histogram] = {}

    def add(self, name: str, labels: Labels = (), amount: int = 1) -> None:
        """Add to a counter."""
        key = (name, labels)
        self.counters[key] = self.counters.get(key, 0) + amount

    def observe(self, name: str, seconds: float, labels: Labels = ()) -> None:
        """Count one observation of a histogram."""
        key = (name, labels)
        histogram = self.histograms.get(key)
        buckets = METRICS[name].buckets
        if histogram is None:
            histogram = self.histograms[key] = Histogram([0] * (len(buckets) + 1), [0.0])
        histogram.counts[bisect_left(buckets, seconds)] += 1
        histogram.sum[0] += seconds

    def take(self) -> list[tuple[str, Labels, int | tuple[list[int], float]]]:
        """Everything counted so far, in a form that travels; the counts start anew."""
        taken: list[tuple[str, Labels, int | tuple[list[int], float]]] = [
            (name, labels, amount) for (name, labels), amount in self.counters.items()
        ]
        taken += [(name, labels, (h.counts, h.sum[0])) for (name, labels), h in self.histograms.items()]
        self.counters = {}
        self.histograms = {}
        return taken


class Registry(Collector):
    """The sum over all workers, dead ones included; rendered by `render`.

    A metric keeps `max_series` label sets; beyond them agents, and the models that they name, are
    counted as `_other`, and `series_dropped_total` says so. The other labels take their values from
    the configuration and cannot grow.
    """

    def __init__(self, max_series: int) -> None:
        """Start with what has no labels at zero, so that rates have a beginning."""
        self._max_series = max_series
        self._values: dict[str, dict[Labels, int]] = {name: {} for name, d in METRICS.items() if d.kind == "counter"}
        self._histograms: dict[str, dict[Labels, Histogram]] = {
            name: {} for name, d in METRICS.items() if d.kind == "histogram"
        }
        self._gauges: dict[str, Callable[[], Iterable[tuple[Labels, float]]]] = {}
        for name, declared in METRICS.items():
            if declared.kind == "counter" and not declared.labels:
                self._values[name][()] = 0
        self._exposed = CollectorRegistry(auto_describe=False)
        self._exposed.register(self)

    def gauge(self, name: str, read: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """Let `read` give a gauge's values whenever they are shown."""
        self._gauges[name] = read

    def add(self, name: str, labels: Labels = (), amount: int = 1) -> None:
        """Add to a counter."""
        series = self._values[name]
        known = series.get(labels)
        if known is None:
            labels = self._bounded(name, labels, series)
            known = series.get(labels, 0)
        series[labels] = known + amount

    def absorb(self, taken: Iterable[tuple[str, Labels, int | tuple[list[int], float]]]) -> None:
        """Add what a worker's `Counts.take` gave."""
        for name, labels, amount in taken:
            if isinstance(amount, int):
                self.add(name, tuple(labels), amount)
                continue
            series = self._histograms[name]
            key = self._bounded(name, tuple(labels), series)
            known = series.setdefault(key, Histogram([0] * len(amount[0]), [0.0]))
            known.counts[:] = [a + b for a, b in zip(known.counts, amount[0], strict=True)]
            known.sum[0] += amount[1]

    def count_row(self, row: LedgerRow) -> None:
        """Count the tokens and the money of a committed ledger row."""
        if row.outcome == "refused":
            return
        account = (row.agent, row.team, row.cost_center, row.provider, row.model)
        for kind, tokens in _disjoint(row):
            if tokens:
                self.add("tokens", (*account, kind), tokens)
        self.add("spend_usd", account, row.cost_nano_usd)
        if not row.price_version and row.kind == "llm" and row.outcome == "complete":
            self.add("price_unknown", (row.provider, row.model))

    def _bounded(self, name: str, labels: Labels, series: Mapping[Labels, object]) -> Labels:
        if labels in series or len(series) < self._max_series:
            return labels
        dropped = self._values["series_dropped"]
        dropped[()] = dropped.get((), 0) + 1
        declared = METRICS[name].labels
        return tuple(OTHER if label in _MADE_UP else value for label, value in zip(declared, labels, strict=True))

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has a value (prometheus-client's collector protocol)."""
        for name, declared in METRICS.items():
            full = f"passgate_{name}"
            if declared.kind == "counter":
                counter = CounterMetricFamily(full, declared.help, labels=declared.labels)
                for labels, amount in self._values[name].items():
                    counter.add_metric(labels, amount / NANO_PER_USD if declared.money else amount)
                yield counter
            elif declared.kind == "gauge" and name in self._gauges:
                gauge = GaugeMetricFamily(full, declared.help, labels=declared.labels)
                for labels, value in self._gauges[name]():
                    gauge.add_metric(labels, value)
                yield gauge
            elif declared.kind == "histogram":
                histogram = HistogramMetricFamily(full, declared.help, labels=declared.labels)
                for labels, observed in self._histograms[name].items():
                    histogram.add_metric(labels, _cumulative(declared.buckets, observed.counts), observed.sum[0])
                yield histogram

    def render(self) -> bytes:
        """The Prometheus text exposition."""
        return generate_latest(self._exposed)


def _cumulative(buckets: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    total, shown = 0, []
    for bound, count in zip([*map(str, buckets), "+Inf"], counts, strict=True):
        total += count
        shown.append((bound, float(total)))
    return shown


def _disjoint(row: LedgerRow) -> tuple[tuple[str, int], ...]:
    """A row's tokens split so that the types add up to input + output."""
    plain_input = row.input_tokens - row.cached_input_tokens - row.cache_write_tokens
    plain_output = row.output_tokens - row.reasoning_tokens
    apart = row.audio_tokens + row.image_tokens
    from_input = min(apart, max(plain_input, 0))
    return (
        ("input", plain_input - from_input),
        ("cache_read", row.cached_input_tokens),
        ("cache_write", row.cache_write_tokens),
        ("output", plain_output - (apart - from_input)),
        ("reasoning", row.reasoning_tokens),
        ("audio", row.audio_tokens),
        ("image", row.image_tokens),
    )
