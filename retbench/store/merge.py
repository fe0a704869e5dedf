"""A run in parts: each block a run directory of its own, measured anywhere, merged into one.

``OUT/parts/block-N`` is written by whoever measures block N, as any run directory is. Whoever holds
OUT appends the cells of the parts to OUT's own samples, a cell at a time and in the order of the
plan, so that they read as if one process had measured them all; worker processes are numbered on.
Everything here can be repeated: a merge that was killed goes on behind the last cell in OUT.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from retbench import store
from retbench.config.plan import Contender, Plan, Point
from retbench.config.run import RunConfig, TimedConfig
from retbench.errors import UserError
from retbench.machine import ceilings
from retbench.metrics import Sample, Status, sample_key
from retbench.store import journal
from retbench.store.files import regular
from retbench.store.journal import STATUS_METRIC, STATUS_PHASE, Key
from retbench.store.samples import NO_PROCESS, new_sample

FOLDER = "parts"


class Part:
    """What is known of one block's directory, which another process may be writing to.

    Args:
        config: of the run.
        out: the directory of the whole run.
        block: which block.

    Attributes:
        path: the part's directory; it need not exist yet.
        meta: the content of its ``run.json``, None where there is none yet.
        batches: the samples of each cell that is committed there, the status row last.
    """

    def __init__(self, config: RunConfig, out: Path, block: int) -> None:
        self.path = out / FOLDER / f"block-{block}"
        self.block = block
        self.meta: store.RunMeta | None = None
        self.batches: dict[Key, list[Sample]] = {}
        self._config = config
        self._read_bytes = -1
        self._lost: tuple[Status, str] | None = None

    @property
    def finished(self) -> bool:
        """Whether whoever measured it has come to its end."""
        return self.meta is not None and self.meta["state"] == "finished"

    def refresh(self) -> None:
        """Read what has been committed since the last time.

        Raises:
            UserError: a file of it is damaged; names the file and the line.
        """
        # Of a shared disk's folder that is read anew, not what is remembered not to be there.
        if not self.path.is_dir() or store.RUN_FILE not in os.listdir(self.path):
            return
        # In this order: what is finished when it is looked at has all its samples.
        self.meta = store.read_meta(self.path)
        size = _size_bytes(self.path / store.SAMPLES_FILE)
        if size != self._read_bytes:
            content = journal.read(self.path / store.SAMPLES_FILE)
            self.batches = {sample_key(rows[-1]): rows for rows in content.batches()}
            self._read_bytes = size

    def asked(self, meta: store.RunMeta) -> tuple[object, dict[str, Any]]:
        """What a part has in common with its run: the text and what is set, not where plugins are.

        Where nothing is timed each machine may have its own number of threads.
        """
        own = {"plugins"} if isinstance(self._config, TimedConfig) else {"plugins", "threads"}
        return meta["data"], {k: v for k, v in meta["configuration"].items() if k not in own}

    def lose(self, status: Status, cause: str) -> None:
        """Give up the cells that are not there: nobody will measure them."""
        self._lost = status, cause

    def batch(self, contender: Contender, point: Point) -> list[Sample] | None:
        """The samples of a cell, of a lost one its status row alone; None for one to come."""
        found = self.batches.get((self.block, contender.label, point.id))
        if found is not None or self._lost is None:
            return found
        status, cause = self._lost
        row = new_sample(self._config, contender, point, STATUS_PHASE, STATUS_METRIC, None)
        row |= {"block": self.block, "process": NO_PROCESS, "status": status, "cause": cause}
        return [row]


def absorb(config: RunConfig, plan: Plan, writer: store.RunWriter) -> None:
    """Merge what earlier sessions left in parts, before the rest is measured without any."""
    if not (writer.path / FOLDER).is_dir():
        return
    found = {block: Part(config, writer.path, block) for block in plan.measured_blocks}
    for part in found.values():
        part.refresh()
    merge(writer, plan, found, gaps=True)


def merge(
    writer: store.RunWriter, plan: Plan, found: Mapping[int, Part], *, gaps: bool = False
) -> None:
    """Append the cells of the parts that the run lacks, point by point in the plan's order.

    Args:
        writer: of the whole run.
        plan: all its cells.
        found: the parts by block, as they were last read.
        gaps: pass over cells that are still to come; otherwise the first of them is where it stops.

    Raises:
        UserError: the disk is full or gone, or a part was measured with another text or
            configuration.
    """
    for (block, point), cells in itertools.groupby(plan.cells(), lambda cell: (cell[0], cell[2])):
        lacking = [c for _, c, _ in cells if (block, c.label, point.id) not in writer.statuses]
        batches = [found[block].batch(contender, point) for contender in lacking]
        known = [batch for batch in batches if batch is not None]
        if len(known) < len(batches) and not gaps:
            break
        if known:
            _adopt(writer, found[block])
            # Those of a point at once: contenders that took turns are kept all or none.
            writer.append(*_renumbered(writer, found[block], known))
    for part in found.values():
        if part.finished:
            _adopt(writer, part)


def _adopt(writer: store.RunWriter, part: Part) -> None:
    """Keep what a part says of its machine and models in the run's own ``run.json``.

    Done before its first cell is appended, and once more when the part has finished. The first
    part of a run that nothing had been measured for lends it its provenance: the machine that only
    submits jobs is no part of the measurement.

    Raises:
        UserError: it was measured with another text or configuration.
    """
    records = {record["block"]: record for record in writer.meta.get("parts", [])}
    earlier = records.get(part.block)
    if part.meta is None or (earlier and earlier["finished"] >= part.finished):
        return
    if part.asked(part.meta) != part.asked(writer.meta):
        raise UserError(
            f"{part.path} was measured with another text or configuration than {writer.path} was "
            "begun with",
            f"delete it and continue with: {store.continue_command(writer.path)}",
        )
    meta, provenance = writer.meta, part.meta["provenance"]
    changes: dict[str, Any] = {}
    if not records and not writer.statuses:
        changes["provenance"] = provenance | {"command": meta["provenance"]["command"]}
        changes["audit"] = meta["audit"] or part.meta["audit"]
        meta = cast(store.RunMeta, {**meta, **changes})
    records[part.block] = {
        "block": part.block,
        "finished": part.finished,
        "provenance": provenance,
        "resumed": part.meta["resumed"],
    }
    changes["parts"] = [records[block] for block in sorted(records)]
    changes["block_s"] = meta["block_s"] | part.meta["block_s"]
    changes["models"] = part.meta["models"] | meta["models"]
    warnings = [*meta["warnings"], *part.meta["warnings"], *_differences(meta, part.meta)]
    if provenance["machine_id"] != meta["provenance"]["machine_id"]:
        warnings.append(_other_hardware(part.block, provenance, meta["provenance"]))
    elif part.finished and part.meta["ceilings"] is not None:
        changes["ceilings"] = ceilings.merge(meta["ceilings"], part.meta["ceilings"])
    writer.update(**changes, warnings=list(dict.fromkeys(warnings)))


def _differences(meta: store.RunMeta, theirs: store.RunMeta) -> list[str]:
    """One warning for each model that is not the same in the run and in a part of it."""
    return [
        f"{label} was not the same model in every process"
        for label, model in theirs["models"].items()
        if meta["models"].get(label, model) != model
    ]


def _other_hardware(block: int, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    named = [
        f"{found['gpu']['name'] if found['gpu'] else found['processor']['name']} "
        f"(machine {found['machine_id']})"
        for found in (there, here)
    ]
    return (
        f"block {block} was measured on other hardware, {named[0]} instead of {named[1]}: ratios "
        "are paired by block, but absolute figures mix both"
    )


def _renumbered(
    writer: store.RunWriter, part: Part, batches: Iterable[list[Sample]]
) -> list[list[Sample]]:
    """Batches of a part with the run's numbers of its processes, which each part counts from 0.

    A process has the number that its earlier cells were merged with, a new one the next free.
    """
    numbers = {NO_PROCESS: NO_PROCESS}
    for key, rows in part.batches.items():
        if key in writer.statuses:
            numbers[rows[-1]["process"]] = writer.statuses[key]["process"]
    free = max(writer.last_process, *numbers.values()) + 1
    renumbered = []
    for batch in batches:
        for row in batch:
            if row["process"] not in numbers:
                numbers[row["process"]], free = free, free + 1
        renumbered.append(
            [cast(Sample, {**row, "process": numbers[row["process"]]}) for row in batch]
        )
    return renumbered


def _size_bytes(file: Path) -> int:
    """The size of a file another machine may be appending to.

    Opened, for a network file system answers a mere ``stat`` from what it remembers.
    """
    try:
        with open(file, "rb", opener=regular) as opened:
            return os.fstat(opened.fileno()).st_size
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
