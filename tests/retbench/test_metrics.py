"""What the declarations of the metrics promise to whoever asks them."""

from pathlib import Path

import pytest

from retbench.errors import UserError
from retbench.metrics import METRICS, TIMES_IN, compared
from retbench.report import glossary

ROOT = Path(__file__).parents[2]

KNOWN = {"tokens", "batch_size", "processes", "matmul_rate", "peak_rate", "bandwidth"}


def test_a_formula_takes_metrics_and_what_is_known_of_a_cell() -> None:
    for metric in METRICS.values():
        assert set(metric.needs) <= METRICS.keys() | KNOWN


def test_what_a_derived_metric_needs_of_the_others_is_declared_before_it() -> None:
    derived = [tag for tag, metric in METRICS.items() if metric.formula is not None]
    for place, tag in enumerate(derived):
        assert set(METRICS[tag].needs).isdisjoint(derived[place:])


def test_a_rate_has_the_interval_of_one_time() -> None:
    for metric in METRICS.values():
        if metric.kind == "rate" and metric.formula is not None:
            assert (
                sum(METRICS[need].kind == "time" for need in metric.needs if need in METRICS) == 1
            )


def test_the_compared_metrics_have_places_of_their_own() -> None:
    places = [METRICS[tag].compared for tag in compared()]
    assert places == list(range(1, len(places) + 1))
    assert compared() == (*compared("time"), *compared("memory"), *compared("energy"))


def test_every_time_that_is_compared_is_of_one_suite() -> None:
    assert sorted(tag for tags in TIMES_IN.values() for tag in tags) == sorted(compared("time"))


def test_every_formula_is_shown_as_it_is_declared() -> None:
    derived = {tag for tag, metric in METRICS.items() if metric.formula}
    assert glossary.formulas().keys() == derived
    assert glossary.formulas()["decode_tokens_per_s"] == "batch_size / tpot_s"


def test_the_page_of_metrics_is_made_from_the_declarations() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == glossary.markdown() + "\n"
    for metric in METRICS.values():
        assert metric.definition in page and metric.definition in glossary.described(metric.tag)


def test_a_metric_is_found_by_its_title_and_an_unknown_one_is_refused() -> None:
    assert glossary.found("Tpot").tag == "tpot_s"
    with pytest.raises(UserError, match="unknown metric 'tpots'; did you mean 'tpot_s'"):
        glossary.found("tpots")
