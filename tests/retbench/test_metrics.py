"""What the declarations of the metrics promise to whoever asks them."""

from retbench.metrics import METRICS, compared

KNOWN = {"tokens", "batch_size", "processes", "matmul_rate", "peak_rate", "bandwidth"}


def test_a_formula_takes_metrics_and_what_is_known_of_a_cell() -> None:
    for metric in METRICS.values():
        assert set(metric.needs) <= METRICS.keys() | KNOWN


def test_a_rate_has_the_interval_of_one_time() -> None:
    for metric in METRICS.values():
        if metric.kind == "rate" and metric.formula is not None:
            assert (
                sum(METRICS[need].kind == "time" for need in metric.needs if need in METRICS) == 1
            )


def test_the_compared_metrics_have_places_of_their_own() -> None:
    places = [METRICS[tag].compared for tag in compared()]
    assert places == list(range(1, len(places) + 1))
    assert compared() == (*compared("time"), *compared("memory"))
