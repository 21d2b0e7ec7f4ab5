"""Counters in the form that Prometheus reads."""

import pytest

prometheus = pytest.importorskip("prometheus_client.parser")


def test_prometheus_reads_them():
    from dust.deploy.serve.metrics import Metrics

    metrics, other = Metrics(), Metrics()
    metrics.requests.labels("/predict", "200").inc()
    metrics.clips.labels("damaged").inc(2)
    with pytest.raises(ValueError), metrics.timed("/predict"):
        raise ValueError
    families = prometheus.text_string_to_metric_families(metrics.text().decode())
    found = {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}
    assert found["dust_requests_total", ("endpoint", "/predict"), ("status", "200")] == 1
    assert found["dust_clips_total", ("outcome", "damaged")] == 2
    assert found["dust_request_seconds_count", ("endpoint", "/predict")] == 1
    assert found["process_resident_memory_bytes",] > 1e7
    assert b'outcome="damaged"' not in other.text(), "two servers of one process count by themselves"
