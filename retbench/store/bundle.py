"""A run as one archive that others can check: its folder, and the hash of every file in it.

The hashes stand in ``SHA256SUMS``, which ``sha256sum --check`` reads too.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import platform
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from retbench.errors import UserError
from retbench.store.files import regular, sha256
from retbench.store.run import Run, folder_name, open_run

SUMS = "SHA256SUMS"
_MOST_BYTES = 2 * 10**9
"""No file of a run is that large: samples and figures have megabytes, weights are not kept."""

_FORMATS = {".tar.gz": "gztar", ".zip": "zip"}


def bundle(run: Run, out: Path | None = None) -> Path:
    """Pack a run's folder.

    Args:
        run: that was opened, so that its samples are sound.
        out: the archive, ``.tar.gz`` or ``.zip``; by default ``NAME.tar.gz`` beside the folder.

    Raises:
        UserError: ``out`` exists, has another suffix, lies in the folder or cannot be written; a
            file is too large, cannot be copied, or cannot be named in a line of the sums.
    """
    folder, called = run.path.resolve(), folder_name(run.path)
    out = out or Path(os.path.normpath(run.path / ".."), f"{called}.tar.gz")
    base, form = _format(out)
    if os.path.lexists(out):
        raise UserError(f"{out} exists", "name another file with --out")
    if out.resolve().is_relative_to(folder):
        raise UserError(f"{out} lies inside of the run", "name another file with --out")
    with _scratch(out.parent) as scratch:
        copy = scratch / called
        try:
            shutil.copytree(folder, copy)
        except shutil.Error as error:  # of every file that it could not copy
            source, _, why = error.args[0][0]
            raise UserError(f"cannot pack {source}: {why}", "remove it, or make room") from None
        for path in copy.rglob("*"):
            name = path.relative_to(copy).as_posix()
            if name.encode(errors="replace").decode().splitlines() != [name]:
                raise UserError(f"cannot pack {name!r}: its name is no line of UTF-8", "rename it")
            if (size := path.stat().st_size) > _MOST_BYTES:
                raise UserError(f"cannot pack {name}: it has {_gb(size)}", "move it elsewhere")
        sums = "".join(f"{digest}  {name}\n" for name, digest in _hashes(copy).items())
        (copy / SUMS).write_text(sums, encoding="utf-8")
        made = shutil.make_archive(str(scratch / base.name), form, scratch, called)
        shutil.move(made, out)
    return out


def verify(file: Path, out: Path | None = None) -> Run:
    """Check a bundle: every file has its hash, none is missing or added, and the run opens.

    Args:
        file: the archive.
        out: an empty or new folder that the run is put into; None to keep nothing.

    Returns:
        The run; its samples are read, its folder remains only where ``out`` is given.

    Raises:
        UserError: the archive is damaged, or no bundle; a file in it is too large for a run, or
            differs from its hash.
    """
    _, form = _format(file)
    with _scratch(out.parent if out else None) as scratch:
        if out and os.path.lexists(out) and (not os.path.isdir(out) or os.listdir(out)):
            raise UserError(f"{out} is not empty", "name another folder with --out")
        _unpack(file, scratch, form)
        folder = _checked(file, scratch)
        run = open_run(folder)
        if out is not None:
            shutil.copytree(folder, out, dirs_exist_ok=True)
            return open_run(out)
    return run


def _unpack(file: Path, folder: Path, form: str) -> None:
    def require_small(name: str, size: int) -> None:
        if size > _MOST_BYTES:
            raise UserError(f"{file} is no bundle: {name} would be {_gb(size)}", "get it anew")

    def checked(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        require_small(member.name, member.size)
        return tarfile.data_filter(member, path)

    try:
        open(file, "rb", opener=regular).close()  # a pipe would be waited for
        if form == "zip":  # members that lead outside are left out
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    require_small(entry.filename, entry.file_size)
            shutil.unpack_archive(file, folder, form)
        elif hasattr(tarfile, "data_filter"):
            shutil.unpack_archive(file, folder, form, filter=checked)
        else:  # Python 3.11 before 3.11.4
            raise UserError(
                f"{file}: this Python ({platform.python_version()}) cannot keep a tar archive from "
                "writing outside of its folder",
                "use Python 3.11.4 or newer",
            )
    except (
        OSError,
        EOFError,
        RuntimeError,
        OverflowError,  # of a time
        ValueError,  # of a time or a name
        lzma.LZMAError,
        zlib.error,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(f"{file} cannot be unpacked: {error}", "get it anew") from None


def _checked(file: Path, scratch: Path) -> Path:
    """The one folder that was unpacked, its files as their hashes say."""
    folders = list(scratch.iterdir())
    if len(folders) != 1 or not (folders[0] / SUMS).is_file():
        raise UserError(f"{file} is no bundle: it has no {SUMS}", "make one with retbench bundle")
    lines = (folders[0] / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    told = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _hashes(folders[0])
    for name in sorted(told.keys() | found.keys()):
        if told.get(name) != found.get(name):
            what = "is not in it" if name not in found else "was added" if name not in told else (
                "differs from its hash"
            )  # fmt: skip
            raise UserError(f"{file}: {name} {what}", "get it anew from where it was published")
    return folders[0]


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the sums themselves, by its path in the folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _format(file: Path) -> tuple[Path, str]:
    """An archive's path without its suffix, and the format that the suffix stands for."""
    for suffix, form in _FORMATS.items():
        if file.name.lower().endswith(suffix) and len(file.name) > len(suffix):
            return file.with_name(file.name[: -len(suffix)]), form
    raise UserError(f"{file} is no {' or '.join(_FORMATS)}", "name it so")


@contextlib.contextmanager
def _scratch(beside: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, on the disk of the result; a disk's errors explained."""
    try:
        if beside:
            beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=".bundle-") as folder:
            yield Path(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or beside}: {error.strerror or error}", "make room"
        ) from None
