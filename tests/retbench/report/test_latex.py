"""The numbers of two runs, cited in one LaTeX document."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from retbench.report import content_of, export

from .conftest import MakeRun

KEY = re.compile(r"\\retbenchset\{(.+?)\}\{")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_a_document_compiles_that_cites_every_number_of_two_runs(
    make_run: MakeRun, tmp_path: Path
) -> None:
    lines, cited = [], []
    for name in ("one", "a strange_name%"):
        run = make_run(name, blocks=2, trials=2, steps=2)
        export.write_numbers(content_of(run), run.path)
        text = (run.path / "numbers.tex").read_text()
        (label,) = re.findall(r"\\def\\retbenchrun\{(.+)\}", text)
        lines.append(
            rf"\input{{{shutil.copy(run.path / 'numbers.tex', tmp_path / f'{label}.tex')}}}"
        )
        cited += [rf"\retbench[{label}]{{{key}}}" for key in KEY.findall(text)]
    assert len(cited) > 100
    last = rf"\retbench{{{KEY.findall(text)[0]}}}"  # without a name: of the last run that was read
    document = [r"\documentclass{article}\begin{document}", *lines, *cited, last, r"\end{document}"]
    (tmp_path / "paper.tex").write_text("\n\n".join(document))
    done = subprocess.run(
        ["pdflatex", "-interaction=batchmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (tmp_path / "paper.log").read_text()[-2000:]
