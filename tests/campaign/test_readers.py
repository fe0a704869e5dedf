"""Every file that is read, changed in every way: one line, or success with what it held before.

    RETBENCH_FUZZ_MINUTES=10 pytest tests/campaign/test_readers.py -s

looks for that many minutes at each reader; by default at few examples. What is sealed or hashed may
not be read as anything else than it was; a text may, for nobody can tell. Runs have a campaign of
their own.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from models import build, checkpoint
from retbench import report
from retbench.data import dataset
from retbench.data.dataset import encode
from retbench.data.documents import read_documents
from retbench.data.split import Source
from retbench.data.vocabulary import CharTokenizer
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.report import export
from retbench.store import documents
from retbench.store.bundle import bundle, verify
from retbench.suites.projection import ProjectionConfig
from retbench.training import model_folder
from retbench.training.checkpointing import Checkpoints
from retbench.training.config import Record, TrainingConfig
from retbench.training.step import make_optimizer

from ..retbench.report.conftest import write_run
from .mutations import MUTATIONS

MINUTES = float(os.environ.get("RETBENCH_FUZZ_MINUTES", "0"))
EXAMPLES = 100 if MINUTES else 8
TEXT = "To be, or not to be, that is the question:\r\nWhether 'tis nobler — in the mind\n" * 40
CHARACTERS = CharTokenizer("".join(sorted(set(TEXT))))
SHEET = """[[device]]
key = "mine"
names = []
flop_per_s = { bfloat16 = 1e12 }
memory_bytes = 16e9
bandwidth_bytes_per_s = 1e11
source = "nobody"
"""
RUN = """suite = "inference"
models = ["retnet", "transformer"]
preset = "tiny"
context = [64, 128]
batch = [1, 4]
[overrides]
n_layers = 1
"""


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        write: puts sound files into a folder.
        read: reads them; gives what tells one content from another.
        sealed: whether a change must be noticed.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    sealed: bool = True


def texts(folder: Path) -> list[tuple[str, str]]:
    return [(found.name, "".join(found.pieces())) for found in read_documents(str(folder))]


def write_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "texts.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", TEXT)
        archive.writestr("b.jsonl", json.dumps({"text": TEXT}))


def write_rows(folder: Path) -> None:
    rows = [{"text": line} for line in TEXT.splitlines()]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "b.json").write_text(json.dumps(rows))
    (folder / "c.csv").write_text("name,text\n" + "\n".join(f'{n},"x ""y"" z"' for n in range(9)))


def model() -> Any:
    sizes = {"n_layers": 1, "d_model": 16, "n_heads": 1, "vocab_size": CHARACTERS.vocab_size}
    return build("retnet", preset="tiny", **sizes)


def write_model(folder: Path) -> None:
    tokenizer = documents.sealed(CHARACTERS.to_json())
    checkpoint.save(model(), folder)
    (folder / model_folder.TOKENIZER).write_text(json.dumps(tokenizer))


def read_model(folder: Path) -> object:
    found, tokenizer = model_folder.load(folder)
    return weights(found), tokenizer.to_json()


def weights(of: Any) -> list[Any]:
    return [tensor.tolist() for tensor in of.state_dict().values()]


def write_checkpoint(folder: Path) -> None:
    trained = model()
    record = Record(1, 64, 0.1, 3.0, 3.0, 1e-3)
    Checkpoints(folder, "same").keep(trained, optimizer(trained), (record,))


def optimizer(of: Any) -> Any:
    return make_optimizer(of, TrainingConfig(steps=2, batch_size=1, seq_len=8))


def read_checkpoint(folder: Path) -> object:
    restored = model()
    return Checkpoints(folder, "same").restore(restored, optimizer(restored)), weights(restored)


def write_audit(folder: Path) -> None:
    (folder / "audit.json").write_text(json.dumps(documents.sealed({"some machine": {"a": 0.1}})))


def write_bundle(folder: Path, packed: str) -> None:
    run = write_run(folder / "run", blocks=1, trials=2, steps=2)
    bundle(run, folder / packed)
    shutil.rmtree(run.path)


def read_bundle(folder: Path, packed: str) -> object:
    return export.numbers(report.content_of(verify(folder / packed)))


def write_training(folder: Path) -> None:
    record = {"state": "running", "settings": {"steps": 2}, "data": {"sha256": "x"}, "plugins": []}
    model_folder.write_record(folder, record)


def write_encoded(folder: Path) -> None:
    (folder.parent / "text.txt").write_text(TEXT)
    encode(Source(str(folder.parent / "text.txt")), "char", folder, None)


def read_encoded(folder: Path) -> object:
    found = dataset._opened(folder, Source(str(folder.parent / "text.txt")))
    return found and [found.to_json(), found.train.tokens.tolist()]


READERS = {
    "text": Reader(lambda to: (to / "a.txt").write_text(TEXT), texts, sealed=False),
    "gzip": Reader(
        lambda to: (to / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode())), texts, sealed=False
    ),
    "zip": Reader(write_zip, texts, sealed=False),
    "rows": Reader(write_rows, texts, sealed=False),
    "configuration": Reader(
        lambda to: (to / "run.toml").write_text(RUN),
        lambda folder: resolve(config_file=folder / "run.toml", here=False).to_json(),
        sealed=False,
    ),
    "data sheets": Reader(
        lambda to: (to / "mine.toml").write_text(SHEET),
        lambda folder: ProjectionConfig(hardware=(str(folder / "mine.toml"),)).sheets(
            lambda: pytest.fail("nothing is measured")
        ),
        sealed=False,
    ),
    "model": Reader(write_model, read_model),
    "checkpoint": Reader(write_checkpoint, read_checkpoint),
    "audit": Reader(
        write_audit,
        lambda folder: documents.unsealed(folder, documents.read(folder / "audit.json", ""), ""),
    ),
    "training": Reader(write_training, model_folder.read_record),
    **{
        packed: Reader(partial(write_bundle, packed=packed), partial(read_bundle, packed=packed))
        for packed in ("run.tar.gz", "run.zip")
    },
    "encoded text": Reader(write_encoded, read_encoded),
}  # fmt: skip


def outcome(reader: Reader, folder: Path, expected: object) -> str:
    """What becomes of files that were changed."""
    try:
        found = reader.read(folder)
    except UserError as problem:
        return "refused" if "\n" not in str(problem) else "refused in several lines"
    if found == expected or repr(found) == repr(expected):
        return "read as before"
    if not found:
        return "taken for none"
    return "read with another content"


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_one_line_or_read(name: str, tmp_path: Path) -> None:
    reader, sound = READERS[name], tmp_path / "sound"
    sound.mkdir()
    torch.manual_seed(0)
    reader.write(sound)
    expected = reader.read(sound)
    files = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file())
    became: Counter[str] = Counter()
    allowed = {"refused", "read as before", "taken for none"}
    if not reader.sealed:
        allowed |= {"read with another content"}

    @settings(
        max_examples=EXAMPLES,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(
        st.sampled_from(files), st.integers(0, 2**32),
        st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3) | st.binary(),
    )  # fmt: skip
    def changed(file: Path, number: int, how: Any) -> None:
        folder = Path(shutil.copytree(sound, tmp_path / "changed", dirs_exist_ok=True))
        data, rng = (sound / file).read_bytes(), random.Random(number)
        for mutation in how if isinstance(how, list) else ():
            data = mutation(data, rng) if data else data
        (folder / file).write_bytes(how if isinstance(how, bytes) else data)
        end = outcome(reader, folder, expected)
        became[end] += 1
        assert end in allowed

    began, rounds = time.monotonic(), 0
    while rounds == 0 or time.monotonic() - began < 60 * MINUTES:
        seed(rounds)(changed)()
        rounds += 1
    print(f"\n{name}: {dict(became)}")
