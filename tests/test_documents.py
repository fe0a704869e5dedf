"""What the documents point to is there: files, and the headings within them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from retbench.report.claims import entries, ledger, page
from retbench.store import RUN_FILE

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "results/CLAIMS.md"])


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as its readers' sites make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target), link


def test_the_ledger_is_that_of_the_published_runs_and_readme_quotes_it() -> None:
    folders = sorted(file.parent for file in (ROOT / "results").glob(f"*/{RUN_FILE}"))
    runs, skipped = ledger.evidence_in(folders)
    found = ledger.ledger(entries.claims(), runs)
    said = page.said(found, skipped)
    kept = json.loads((ROOT / "results/CLAIMS.json").read_text())
    assert kept == json.loads(json.dumps(page.document(found, said)))
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert said[0] in readme
