"""A bundle holds the run's folder as it was, and says so where it does not."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from retbench.errors import UserError
from retbench.store import Run, open_run
from retbench.store import bundle as bundles
from retbench.store.bundle import SUMS, bundle, verify

from ..report.conftest import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "mine", blocks=1, trials=1, steps=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_run_comes_back_as_it_was(tmp_path: Path, run: Run, suffix: str) -> None:
    file = bundle(run, tmp_path / f"sent{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    again = verify(file, tmp_path / "received")
    assert again.meta == run.meta and again.columns == run.columns
    found = contents(tmp_path / "received")
    sums = found.pop(SUMS)
    assert found == contents(run.path) and sums.count(b"\n") == len(found)
    checked = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=tmp_path / "received")
    assert checked.returncode == 0


def test_by_default_it_lies_beside_the_folder_and_nothing_is_overwritten(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = open_run(shutil.copytree(run.path, tmp_path / "copy"))
    monkeypatch.chdir(copy.path)
    assert bundle(open_run(".")).resolve() == tmp_path / "copy.tar.gz"
    (tmp_path / "copy.tar.gz").unlink()
    assert bundle(copy) == tmp_path / "copy.tar.gz"
    with pytest.raises(UserError, match=r"copy.tar.gz exists"):
        bundle(copy)
    assert verify(tmp_path / "copy.tar.gz").meta == run.meta
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "copy.tar.gz"]
    with pytest.raises(UserError, match="copy is not empty"):
        verify(tmp_path / "copy.tar.gz", tmp_path / "copy")


def _dangling(folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("change", "out", "said"),
    [
        (lambda _: None, "run/plots/x.tar.gz", "x.tar.gz lies inside of the run; name another"),
        (lambda folder: os.mkfifo(folder / "pipe"), "x.zip", "run/pipe: .* is a named pipe"),
        (_dangling, "x.zip", "run/link: .*No such file.*; remove it"),
        (lambda f: (f / "a\nb").touch(), "x.zip", r"cannot pack 'a\\nb': .*; rename it"),
        (lambda f: (f / os.fsdecode(b"\xe9")).mkdir(), "x.zip", r"cannot pack '\\udce9'"),
    ],
)
def test_what_cannot_be_packed_is_one_line(
    tmp_path: Path, run: Run, change: Callable[[Path], None], out: str, said: str
) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    change(copy)
    with pytest.raises(UserError, match=said) as told:
        bundle(open_run(copy), tmp_path / out)
    assert "\n" not in str(told.value) and [*tmp_path.iterdir()] == [copy]


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_file_that_no_run_has_the_size_of_is_neither_packed_nor_unpacked(
    tmp_path: Path, run: Run, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = open_run(shutil.copytree(run.path, tmp_path / "run"))
    with open(copy.path / "big", "wb") as file:
        file.truncate(3_000_000)
    packed = bundle(copy, tmp_path / f"sent{suffix}")
    assert packed.stat().st_size < 100_000 and verify(packed).meta == run.meta
    monkeypatch.setattr(bundles, "_MOST_BYTES", 2_000_000)
    with pytest.raises(UserError, match=r"is no bundle: run/big would be 0.0 GB; get it anew"):
        verify(packed)
    with pytest.raises(UserError, match=r"cannot pack big: it has 0.0 GB; move it elsewhere"):
        bundle(copy, tmp_path / f"again{suffix}")


def test_a_large_file_is_hashed_in_little_memory(tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate(64_000_000)
    tracemalloc.start()
    try:
        digest = bundles._hashes(tmp_path)["big"]
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert digest == hashlib.sha256(bytes(64_000_000)).hexdigest()


def test_a_folder_whose_name_is_no_utf_8_is_packed_under_one_that_is(
    tmp_path: Path, run: Run
) -> None:
    copy = shutil.copytree(run.path, tmp_path / os.fsdecode(b"q\xe9"))
    (copy / "über.txt").touch()
    assert bundle(open_run(copy)).name == r"q\xe9.tar.gz"
    assert verify(bundle(open_run(copy), tmp_path / "sent.zip")).meta == run.meta


def _changed(folder: Path) -> None:
    text = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text(text.replace("1", "2", 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_changed, "samples.jsonl differs from its hash; get it anew"),
        (lambda folder: (folder / "run.json").unlink(), "run.json is not in it"),
        (lambda folder: (folder / "more.txt").touch(), "more.txt was added"),
        (lambda folder: (folder / SUMS).unlink(), "is no bundle"),
    ],
)
def test_a_bundle_that_was_changed_is_refused_by_file(
    tmp_path: Path, run: Run, change: Callable[[Path], None], said: str
) -> None:
    verify(bundle(run, tmp_path / "sent.tar.gz"), tmp_path / "mine")
    change(tmp_path / "mine")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "mine", "mine")
    with pytest.raises(UserError, match=said):
        verify(tmp_path / "other.tar.gz")


@pytest.mark.parametrize(
    "headers", [{"mtime": "1e30"}, {"mtime": "nan"}, {"path": "a\0b"}], ids=["late", "nan", "nul"]
)
def test_an_archive_with_times_or_names_that_no_file_can_have_is_refused(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    member = tarfile.TarInfo("a")
    member.pax_headers = headers
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    with pytest.raises(UserError, match="cannot be unpacked"):
        verify(tmp_path / "a.tar.gz")


def test_a_damaged_archive_of_another_packing_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/run.json", "to be or not to be" * 99)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    at = data.index(b"a/run.json") + len("a/run.json")
    data[at + 4] = 0xFF  # the first of LZMA's properties
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match="cannot be unpacked"):
        verify(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"cannot be unpacked: .*not a regular file"):
        verify(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(b"not an archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        verify(tmp_path / name)
    with pytest.raises(UserError, match=r"is no \.tar\.gz or \.zip"):
        verify(tmp_path / "a.rar")
    with pytest.raises(UserError, match=r"is no \.tar\.gz or \.zip"):
        verify(tmp_path / name.removeprefix("a"))


def test_an_archive_under_a_password_is_refused(tmp_path: Path, run: Run) -> None:
    packed = bundle(run, tmp_path / "a.zip")
    data = bytearray(packed.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(magic)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(magic, at + 4)
    packed.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be unpacked: .*password required"):
        verify(packed)


def test_an_archive_may_not_write_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "evil", "../outside")
    with pytest.raises(UserError, match="cannot be unpacked"):
        verify(tmp_path / "a.tar.gz")


def test_a_python_that_cannot_keep_an_archive_in_its_folder_unpacks_zips_alone(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack = shutil.unpack_archive
    monkeypatch.setattr(shutil, "unpack_archive", lambda file, out, form: unpack(file, out, form))
    monkeypatch.delattr(tarfile, "data_filter")
    assert verify(bundle(run, tmp_path / "sent.zip")).meta == run.meta
    with pytest.raises(UserError, match=r"sent\.tar\.gz: this Python .* cannot keep a tar archive"):
        verify(bundle(run, tmp_path / "sent.tar.gz"))
