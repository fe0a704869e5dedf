"""Figures of every suite: what each shows and leaves out, and how any declaration is drawn."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure as Drawing

from retbench.errors import UserError
from retbench.report import content_of, drawing, figure_data, figures, theme, units
from retbench.report.figure import Axis, Crossing, Curve, Figure, Panel
from retbench.report.marks import statuses
from retbench.store import Run

from .conftest import FAILURES, MakeRun, write_run
from .kernels_run import ending, write_kernels
from .recall_run import LENGTHS, write_recall
from .scaling_run import PRESETS, write_scaling

CHANCE = {"tasks": {"mqar": {"chance": 0.05}, "copy": {"chance": 0.1}}}
SUITES: dict[str, Callable[[Path], Run]] = {
    "inference": lambda path: write_run(path, failures=FAILURES, generation=True),
    "kernels": lambda path: write_kernels(path, head_dims=(32, 64)),
    "scaling": lambda path: write_scaling(path, failures={("transformer", "3m", 0): "oom"}),
    "recall": lambda path: write_recall(
        path, data=CHANCE, failures={("transformer", "needle", seed): "oom" for seed in range(3)}
    ),
}


@pytest.fixture(scope="module", params=SUITES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return SUITES[request.param](tmp_path_factory.mktemp("figures") / "run")


@pytest.fixture(scope="module")
def drawings(run: Run) -> list[tuple[Figure, Drawing, str]]:
    """All figures of a run, drawn once."""
    return [(figure, *drawn(figure)) for figure in content_of(run).figures()]


def drawn(figure: Figure, **options: Any) -> tuple[Drawing, str]:
    with theme.fixed():
        picture, notes = drawing.draw(figure, **options)
    return picture, " · ".join(notes)


def named(run: Run, name: str) -> Figure:
    return next(figure for figure in content_of(run).figures() if figure.name == name)


def texts(picture: Drawing) -> set[str]:
    return {text.get_text() for ax in picture.findobj(lambda a: hasattr(a, "texts"))
            for text in ax.texts}  # fmt: skip


# Every figure of every suite


def test_every_cell_of_the_plan_is_shown_or_left_out_with_its_reason(
    run: Run, drawings: list[tuple[Figure, Drawing, str]]
) -> None:
    ends = figure_data.cells(run)
    plan = {(end["model"], end["point"]): end for end in ends}
    for figure, _, note in drawings:
        sidecar = json.loads(json.dumps(figure_data.sidecar(figure, ends, [note]), allow_nan=False))
        shown = {(row[side], row["point"]) for row in sidecar["shown"]
                 for side in ("model", "subject") if side in row}  # fmt: skip
        left_out = {(row["model"], row["point"]): row for row in sidecar["left_out"]}
        assert shown | left_out.keys() == plan.keys(), figure.name
        assert shown, figure.name
        for cell, end in plan.items():
            if end["why"] not in (figure_data.ELSEWHERE, "ok"):  # it failed, if in one block only
                assert left_out[cell]["why"] == end["why"] and left_out[cell]["cause"]


def test_every_mark_can_be_pointed_at_and_says_its_value(
    drawings: list[tuple[Figure, Drawing, str]],
) -> None:
    for figure, picture, _ in drawings:
        found = figure_data.marks(figure, picture)
        rows = [figure.rows(panel).dropna(subset=["value"]) for panel in figure.panels]
        with_marker = [name for name, style in figure.styles.items() if style.marker]
        marked = [own[own["series"].isin(with_marker)] for own in rows]
        assert len(found) == sum(map(len, marked)), figure.name
        assert all(0 < mark["x"] < 1 and 0 < mark["y"] < 1 for mark in found)
        names = {name for own in marked for name in own["series"]}
        assert {name for name in names if any(name in mark["text"] for mark in found)} == names


def test_a_mark_says_what_its_row_says(make_run: MakeRun) -> None:
    figure = named(make_run(), "tpot_context")
    texts_ = {mark["text"] for mark in figure_data.marks(figure, drawn(figure)[0])}
    rows = figure.rows(figure.panels[0])
    row = rows[(rows["series"] == "retnet") & (rows["x"] == 8192)].iloc[0]
    value = units.with_interval(row["value"], row["low"], row["high"])
    assert f"retnet at 8k: TPOT (ms) {value}" in texts_


def test_every_failure_that_a_figure_could_show_has_its_mark(
    drawings: list[tuple[Figure, Drawing, str]],
) -> None:
    for figure, picture, _ in drawings:
        said = " ".join(texts(picture))
        for name in set(figure.failures["series"]):
            assert f"{name}: " in said, figure.name


def test_a_figure_is_the_same_bytes_each_time_and_lists_what_it_shows(
    run: Run, drawings: list[tuple[Figure, Drawing, str]], tmp_path: Path
) -> None:
    least = min((figure for figure, *_ in drawings), key=lambda figure: len(figure.panels))
    one, two = (figures.write([least], run, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert {path.suffix for path in one} == {".png", ".svg", ".json"}


def test_for_print_there_are_the_same_pdfs_each_time_and_captions_in_latex(
    drawings: list[tuple[Figure, Drawing, str]], tmp_path: Path
) -> None:
    found = [min((figure for figure, *_ in drawings), key=lambda figure: len(figure.panels))]
    one, two = (figures.write_for_print(found, tmp_path / name, 3.25) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    pdf, captions = one
    content = pdf.read_bytes()
    assert b"/FontFile2" in content and b"/CreationDate" not in content
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)
    assert float(box) == pytest.approx(3.25 * 72, abs=1)
    said = captions.read_text()
    assert f"retbench:caption:{found[0].name}" in said and said.isascii() and found[0].title in said


@pytest.mark.parametrize("suite", ["inference", "kernels"])
def test_a_run_in_which_nothing_succeeded_has_figures_all_the_same(
    suite: str, tmp_path: Path, make_run: MakeRun
) -> None:
    if suite == "kernels":
        run = write_kernels(tmp_path / "k", endings=lambda *_: ("error", "broken"))
    else:
        places = [(c, 1) for c in (512, 1024, 2048, 4096, 8192)] + [(1024, 4), (1024, 16)]
        models = ("retnet", "transformer", "transformer-gqa")
        run = make_run(failures={(m, *place): "error" for m in models for place in places})
    for figure in content_of(run).figures():
        sidecar = figure_data.sidecar(figure, figure_data.cells(run), [drawn(figure)[1]])
        assert not sidecar["shown"] and all(r["why"] == "error" for r in sidecar["left_out"])


# What single suites show


def test_a_smoke_run_says_in_every_figure_that_it_claims_nothing(make_run: MakeRun) -> None:
    first, *others = content_of(make_run(configuration={"profile": "smoke"})).figures()
    assert {figure.caveat for figure in (first, *others)} == {"SMOKE: no claims"}
    header = drawn(first)[0].findobj(lambda a: hasattr(a, "get_text"))
    assert "SMOKE: no claims" in {text.get_text() for text in header}


def test_three_seeds_and_rates_at_the_end_of_the_grid_are_said_in_the_header(
    tmp_path: Path,
) -> None:
    said = "3 seeds, learning rates at the grid's end: no claim"
    assert {figure.caveat for figure in content_of(write_scaling(tmp_path / "r")).figures()} == {
        said
    }


def test_an_operation_that_never_succeeded_is_named_in_the_footer(tmp_path: Path) -> None:
    found = named(write_kernels(tmp_path / "run"), "time_float32")
    picture, note = drawn(found)
    assert "no cell succeeded: fla-chunk" in note
    assert "sdpa-math: oom" in texts(picture) and "fla-chunk" not in set(found.failures["series"])


def test_an_operation_that_failed_at_every_context_takes_one_line(tmp_path: Path) -> None:
    def endings(model: str, context: int, direction: str) -> tuple[str, str | None]:
        if model == "fla-chunk":
            return ("ok", None) if direction == "forward" else ("unsupported", "no backward")
        return ending(model, context)

    picture, _ = drawn(named(write_kernels(tmp_path / "run", endings=endings), "time_float32"))
    assert "fla-chunk: unsupported everywhere" in texts(picture)


@pytest.mark.parametrize("written", [write_run, write_kernels])
def test_the_answer_comes_first(tmp_path: Path, written: Callable[[Path], Run]) -> None:
    first = next(iter(content_of(written(tmp_path / "run")).figures()))
    assert first.name.startswith("ratio")


def test_the_state_of_a_retnet_and_of_a_transformer_are_those_of_their_models(
    tmp_path: Path,
) -> None:
    data = named(write_recall(tmp_path / "run"), "accuracy_state").data
    sizes = data[data["panel"] == "mqar"].set_index("series")["x"]
    assert sizes.to_dict() == {"retnet": 16384.0, "transformer": 512.0 * 128}


def test_states_that_are_mostly_alike_are_no_axis(tmp_path: Path) -> None:
    models = ("retnet", "transformer", "transformer-math", "transformer-window")
    run = write_recall(tmp_path / "run", models=models)
    assert [figure.name for figure in content_of(run).figures()] == ["accuracy_length"]


def test_each_task_and_load_has_a_panel_with_its_guess(tmp_path: Path) -> None:
    found = named(write_recall(tmp_path / "run", data=CHANCE), "accuracy_length")
    assert [panel.key for panel in found.panels] == [
        "mqar 4", "mqar 8", "mqar 16", "mqar 32", "copy 8", "copy 32", "needle 1"
    ]  # fmt: skip
    guesses = {curve.panel: curve.value[0] for curve in found.curves}
    # One of 4 or 16 pairs that were shown, one of 32, where the chance among all answers is more.
    assert guesses["mqar 4"] == 0.25 and guesses["mqar 32"] == 0.05 and "needle 1" not in guesses
    assert found.panels[0].x.ticks == LENGTHS


def test_fitted_lines_end_where_the_marks_do(tmp_path: Path) -> None:
    found = named(write_scaling(tmp_path / "run"), "loss_parameters")
    assert max(max(curve.x) for curve in found.curves) == pytest.approx(PRESETS["3m"] * 1.001)


def test_what_was_measured_alone_is_said_where_there_is_no_ratio(make_run: MakeRun) -> None:
    run = make_run(alone=lambda model, context, block: (model, context) == ("transformer", 8192))
    picture, note = drawn(named(run, "ratio_context"))
    assert "transformer: alone" in texts(picture) and "only one of the two took turns" in note


def test_a_crossover_is_drawn_only_between_opposite_verdicts(make_run: MakeRun) -> None:
    told = named(make_run("told", blocks=10), "ratio_context")
    assert {crossing.series for crossing in told.crossings} == {"transformer"}
    smoke = make_run("smoke", configuration={"profile": "smoke"})
    assert not named(smoke, "ratio_context").crossings


# Styles


def test_a_family_has_its_hue_in_any_order_and_company() -> None:
    alone = theme.styles({"transformer": "transformer"})
    last = theme.styles({"retnet": "retnet", "h3": "h3", "transformer": "transformer"})
    assert alone["transformer"] == last["transformer"] == theme.FAMILIES["transformer"]
    operation = theme.styles({"retention-parallel": "retention-parallel"})
    assert same_color(operation["retention-parallel"].color, theme.FAMILIES["retnet"].color)


def test_variants_are_tints_that_differ_in_more_than_colour() -> None:
    labels = {"retnet-no-gate": "retnet", "retnet": "retnet", "retnet-no-decay": "retnet"}
    found = theme.styles(labels)
    assert list(found) == list(labels) and found["retnet"] == theme.FAMILIES["retnet"]
    assert len({style.color for style in found.values()}) == len(
        {style.marker for style in found.values()}
    ) == 3  # fmt: skip


def test_no_first_variant_looks_like_another_family_or_its_first_variant() -> None:
    found = theme.styles({f"{f}{more}": f for f in theme.FAMILIES for more in ("", "-more")})
    assert len({style.marker for style in found.values()}) == len(found)
    variants = [label for label in found if label.endswith("-more")]
    for label, family in itertools.product(variants, theme.FAMILIES):
        apart = np.subtract(to_rgb(found[label].color), to_rgb(found[family].color))
        assert label == f"{family}-more" or np.linalg.norm(apart) > 0.2, (label, family)


def test_an_unknown_family_takes_a_hue_that_the_run_leaves_free() -> None:
    every = {family: family for family in theme.FAMILIES}
    assert theme.styles(every | {"mine": "mine"}).keys() == {*every, "mine"}
    found = theme.styles({"mine": "mine", "retnet": "retnet", "yours": "yours"})
    assert len({style.color for style in found.values()}) == 3


@pytest.mark.parametrize(
    ("label", "text"),
    [("retnet", "RetNet"), ("transformer-gqa", "Transformer (GQA)"), ("mine", "mine"),
     ("retnet-no-gate", "RetNet no gate"), ("transformer-math", "Transformer math"),
     ("retnet: exponent 0.1", "RetNet: exponent 0.1")],
)  # fmt: skip
def test_in_print_a_model_has_its_name(label: str, text: str) -> None:
    assert theme.display(label) == text


@pytest.mark.parametrize(
    ("text", "expected"), [("3.25in", 3.25), ("8.3 cm", 3.268), ("240pt", 3.32), ("90mm", 3.543)]
)
def test_a_width_has_a_unit(text: str, expected: float) -> None:
    assert figures.inches(text) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("text", ["3.25", "wide", "1.2.3in", "-3in", "0.1in", "900in"])
def test_what_is_no_width_is_the_user_s_error(text: str) -> None:
    with pytest.raises(UserError, match="no width from 1in"):
        figures.inches(text)


# Any declaration


def declared(n: int = 3, **changes: Any) -> Figure:
    """Two series over three contexts, each with an interval and its processes' own values."""
    rows = [
        {"panel": "p", "series": series, "model": series, "point": f"context={x}", "x": x,
         "value": float(x), "low": 0.9 * x, "high": 1.1 * x, "n": n, "open": False,
         "each": tuple(np.linspace(0.95, 1.05, n) * x)}
        for series in ("retnet", "transformer") for x in (1, 2, 4)
    ]  # fmt: skip
    found = Figure(
        "name", "A title",
        (Panel("p", "", Axis("context", (1, 2, 4)), Axis("seconds")),), pd.DataFrame(rows),
        {name: theme.FAMILIES[name] for name in ("retnet", "transformer", "h3")},
        "conditions", interval="95% interval",
    )  # fmt: skip
    return replace(found, **changes)


def lines(picture: Drawing) -> Iterator[Any]:
    return iter(picture.axes[0].lines)


@pytest.mark.parametrize(
    ("n", "said", "unsaid"),
    [(3, ("whisker", "small dots"), "band"), (7, ("whisker",), "small dots"),
     (10, ("band",), "whisker")],
)  # fmt: skip
def test_few_processes_are_dots_and_a_whisker_and_many_a_band(
    n: int, said: tuple[str, ...], unsaid: str
) -> None:
    _, note = drawn(declared(n))
    assert all(word in note for word in said) and unsaid not in note


def test_a_single_process_says_that_it_has_no_interval() -> None:
    alone = declared(1).data.assign(low=np.nan, high=np.nan)
    _, note = drawn(declared(data=alone))
    assert "no intervals: a single process" in note and "whisker" not in note


def test_the_legend_names_what_is_drawn_and_nothing_else() -> None:
    curve = Curve("p", "retnet", np.array([1, 4]), np.array([1.0, 4.0]), "retnet, fitted")
    picture, _ = drawn(declared(curves=[curve]))
    (legend,) = picture.findobj(lambda a: type(a).__name__ == "Legend")
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == ["retnet", "transformer", "retnet, fitted"]


def test_in_print_every_label_of_a_model_is_its_name() -> None:
    lost = pd.DataFrame([("p", "h3", 2, "oom")], columns=["panel", "series", "x", "status"])
    panel = replace(declared().panels[0], margin=0.01, sides=("retnet faster", "slower"))
    found = declared(named=theme.display, failures=lost, panels=(panel,))
    picture, _ = drawn(found, paper_in=3.25)
    (legend,) = picture.findobj(lambda a: type(a).__name__ == "Legend")
    assert [text.get_text() for text in legend.get_texts()] == ["RetNet", "Transformer"]
    assert {"H3: oom", "← RetNet faster", "slower →"} <= texts(picture)


def test_a_hollow_mark_has_no_verdict() -> None:
    data = declared().data.assign(open=[True, False, False] * 2)
    picture, note = drawn(declared(data=data))
    faces = [line.get_markerfacecolor() for line in lines(picture) if line.get_marker() in "os"]
    assert faces.count("white") == 2 and "open: inconclusive" in note


def test_an_interval_that_leaves_the_frame_ends_in_an_arrowhead() -> None:
    data = declared().data
    data.loc[2, "high"] = 1000.0
    picture, note = drawn(declared(data=data))
    assert "arrowhead" in note and picture.axes[0].get_ylim()[1] < 10
    (head,) = [line for line in lines(picture) if line.get_marker() == "^"]
    assert head.get_ydata()[0] == picture.axes[0].get_ylim()[1]
    assert "arrowhead" not in drawn(declared())[1]


def test_a_crossing_is_clipped_to_what_was_measured() -> None:
    picture, note = drawn(declared(crossings=[Crossing("p", "retnet", 2.0, 0.01, 3.0)]))
    ends = [(line.get_xdata()[0], line.get_marker()) for line in lines(picture)]
    assert (1.0, "<") in ends and (3.0, "|") in ends and "bracket" in note


def test_a_batch_that_failed_interrupts_the_front(make_run: MakeRun) -> None:
    front = named(make_run(failures={("retnet", 1024, 4): "timeout"}), "pareto")
    own = front.data[front.data["series"] == "retnet"]
    assert own["batch_size"].tolist() == [1, 4, 16]
    assert own["value"].isna().tolist() == own["x"].isna().tolist() == [False, True, False]
    assert drawn(front)


def test_failures_stand_below_the_axis_and_change_no_limits() -> None:
    lost = pd.DataFrame(
        [("p", "h3", 2, "oom"), ("p", "h3", 4, "oom_implied")],
        columns=["panel", "series", "x", "status"],
    )
    picture, note = drawn(declared(failures=lost))
    assert picture.axes[0].get_ylim() == drawn(declared())[0].axes[0].get_ylim()
    mark = next(t for t in picture.axes[0].texts if t.get_text() == "×")
    assert mark.get_window_extent().y1 < picture.axes[0].get_window_extent().y0
    assert "h3: oom" in texts(picture) and "faint: implied by a smaller one" in note


@pytest.mark.parametrize(
    ("labels", "text"),
    [(["oom", "oom_implied", "oom_implied"], "oom"), (["timeout 1/3", "oom"], "timeout 1/3, oom"),
     (["oom_implied"], "oom implied")],
)  # fmt: skip
def test_the_failures_of_a_series_share_a_label(labels: list[str], text: str) -> None:
    assert statuses(labels) == text


def test_a_legend_that_does_not_fit_takes_more_rows_and_leaves_the_axes_their_height() -> None:
    heights = []
    for count in (3, 13):
        styles = theme.styles({f"retention-number-{i:02d}": "retnet" for i in range(count)})
        rows = [{"panel": "p", "series": name, "x": 1, "value": 1.0} for name in styles]
        picture, _ = drawn(declared(data=pd.DataFrame(rows), styles=styles))
        (legend,) = picture.findobj(lambda a: type(a).__name__ == "Legend")
        assert legend.get_window_extent().x1 <= picture.bbox.width
        assert legend.get_window_extent().y0 > picture.axes[0].get_window_extent().y1
        heights.append(picture.axes[0].get_window_extent().height)
    assert heights[0] == pytest.approx(heights[1], rel=0.05)


def test_a_row_has_its_number_at_the_right_and_a_panel_a_height_by_its_rows() -> None:
    heights = []
    for count in (2, 9):
        row = {"panel": "p", "series": "retnet", "value": 1.1, "low": 0.9, "high": 2.0, "n": 3}
        rows = [row | {"row": f"row {i}", "text": f"{i} worse"} for i in range(count)]
        panel = Panel("p", "", Axis("ratio"), margin=0.01, sides=("better", "worse"))
        found = declared(data=pd.DataFrame(rows), panels=(panel,), geometry="rows")
        picture, _ = drawn(found)
        number = next(t for t in picture.axes[0].texts if t.get_text() == "1 worse")
        assert number.get_window_extent().x0 > picture.axes[0].get_window_extent().x1
        assert picture.axes[0].get_xlabel() == "← better   ratio   worse →"
        heights.append(picture.get_figheight())
    assert heights[1] - heights[0] > 1.5


def test_beside_the_whisker_of_a_row_each_seed_has_a_small_dot() -> None:
    row = {"panel": "p", "series": "retnet", "row": "one", "value": 1.1, "low": 0.9, "high": 2.0,
           "n": 3, "each": (0.95, 1.1, 1.3)}  # fmt: skip
    panel = Panel("p", "", Axis("ratio"))
    found = declared(data=pd.DataFrame([row]), panels=(panel,), geometry="rows", each="seed")
    picture, note = drawn(found)
    (dots,) = (line for line in picture.axes[0].lines if line.get_marker() == ".")
    assert list(dots.get_xdata()) == [0.95, 1.1, 1.3] and "small dots: one seed each" in note
