"""Metrics: counted by workers, added up and shown by the supervisor."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gateway.core.row import LedgerRow
from gateway.telemetry.metrics import METRICS, Counts, Registry


def shown(registry: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    samples = {}
    for family in text_string_to_metric_families(registry.render().decode()):
        for sample in family.samples:
            samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def test_counts_of_all_workers_add_up() -> None:
    """Two workers that counted the same thing are one series with the sum."""
    registry = Registry(100)
    for _ in range(2):
        counts = Counts()
        counts.add("refusals", ("procurement", "policy_denied"))
        counts.observe("overhead_seconds", 0.0002)
        counts.observe("overhead_seconds", 5.0)
        registry.absorb(counts.take())
        assert counts.take() == []
    samples = shown(registry)
    assert samples["passgate_refusals_total", (("agent", "procurement"), ("code", "policy_denied"))] == 2
    assert samples["passgate_overhead_seconds_count", ()] == 4
    assert samples["passgate_overhead_seconds_bucket", (("le", "0.00025"),)] == 2
    assert samples["passgate_overhead_seconds_bucket", (("le", "+Inf"),)] == 4


def test_money_and_tokens_come_from_ledger_rows_and_types_are_disjoint() -> None:
    """What is shown is what was committed, and the types add up to input plus output."""
    registry = Registry(100)
    row = LedgerRow(
        time=1, request_id="req_1", agent="a", team="t", cost_center="c", provider="p", model="m", input_tokens=100,
        cached_input_tokens=30, cache_write_tokens=10, output_tokens=50, reasoning_tokens=20, audio_tokens=5,
        cost_nano_usd=1_500_000, price_version="v",
    )  # fmt: skip
    registry.count_row(row)
    samples = shown(registry)
    tokens = {
        dict(labels)["type"]: value for (name, labels), value in samples.items() if name == "passgate_tokens_total"
    }
    assert sum(tokens.values()) == 150
    assert (tokens["cache_read"], tokens["cache_write"], tokens["reasoning"], tokens["audio"]) == (30, 10, 20, 5)
    spend = [value for (name, _), value in samples.items() if name == "passgate_spend_usd_total"]
    assert spend == [0.0015]


def test_label_sets_are_bounded() -> None:
    """S18: agents that invent names cannot grow the exposition; what is folded is counted."""
    registry = Registry(10)
    for number in range(1000):
        registry.add("refusals", (f"agent-{number}", "policy_denied"))
    samples = shown(registry)
    series = [labels for (name, labels) in samples if name == "passgate_refusals_total"]
    assert len(series) == 11
    assert samples["passgate_refusals_total", (("agent", "_other"), ("code", "policy_denied"))] == 990
    assert samples["passgate_series_dropped_total", ()] == 990


def test_every_metric_can_be_shown() -> None:
    """Each line of the table renders and parses."""
    registry = Registry(10)
    for name, declared in METRICS.items():
        labels = tuple("x" for _ in declared.labels)
        if declared.kind == "counter":
            registry.add(name, labels)
        elif declared.kind == "gauge":
            registry.gauge(name, lambda labels=labels: [(labels, 1.0)])  # type: ignore[misc]
        else:
            counts = Counts()
            counts.observe(name, 0.1, labels)
            registry.absorb(counts.take())
    names = {name for name, _ in shown(registry)}
    for name, declared in METRICS.items():
        suffix = {"counter": "_total", "gauge": "", "histogram": "_sum"}[declared.kind]
        assert f"passgate_{name}{suffix}" in names
