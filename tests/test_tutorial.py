"""The tutorial runs from its first cell to its last, and shows what it printed when it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    """The cells of code, in their order."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_every_cell_runs(
    cells: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which has no input.txt
    plt.switch_backend("agg")
    threads, known = torch.get_num_threads(), {}
    try:
        with torch.random.fork_rng():
            for number, cell in enumerate(cells):
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), known)
    finally:
        torch.set_num_threads(threads)
        plt.close("all")
    # What the notebook asserts of itself has held, too.
    assert known["curves"]["retnet"][60] < known["curves"]["retnet"][0] - 1
    assert len(known["made"]) == 30


def test_it_was_saved_whole_from_a_run_in_order(cells: list[dict[str, Any]]) -> None:
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds and kinds[-1] == "display_data"
