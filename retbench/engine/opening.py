"""The run directory that a run is written to: begun, or continued where it was begun alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from retbench import store, workers
from retbench.config import plugins
from retbench.config.plan import Plan
from retbench.config.run import RunConfig, TimedConfig
from retbench.engine.turns import in_turns
from retbench.errors import UserError
from retbench.machine.provenance import provenance
from retbench.machine.threads import SPIN_LIMITS

Audits = Callable[[RunConfig, str], Mapping[str, Any] | None]
"""The audit that is known of runs like this one on a machine, by its id; None where there is none.
See :func:`retbench.engine.audit.known`."""


def begin(
    config: RunConfig,
    plan: Plan,
    out: Path,
    *,
    models: Mapping[str, Any],
    provenance: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    **further: Any,
) -> store.RunWriter:
    """Begin a run directory; ``run.json`` says what is known before anything is measured.

    Args:
        config: what is asked for.
        plan: its cells.
        out: the directory.
        models: what each contender is, by label.
        provenance: the machine and the software.
        data: the text or the tasks; None for a suite without.
        audit: of the machine; None where there is none.
        further: keys of ``run.json`` that not every run has.

    Raises:
        UserError: the directory holds something already, or cannot be made or written.
    """
    meta: dict[str, Any] = {
        "suite": config.suite,
        "configuration": _published(config, out),
        "plan": plan.to_json(),
        "data": data,
        "models": models,
        "provenance": provenance,
        "resumed": [],
        **further,
        "ceilings": None,
        "audit": audit,
        "primary": [list(named) for named in plan.primary],
        "block_s": {},
        "stopped": None,
        "warnings": [],
    }
    return store.RunWriter.create(out, meta)


def open_writer(
    config: RunConfig, plan: Plan, data: Any, out: Path, resume: bool, *, here: bool,
    audits: Audits | None = None,
) -> store.RunWriter:  # fmt: skip
    """Begin or continue the run directory.

    Args:
        config: what is asked for.
        plan: its cells.
        data: the text or the tasks; None for a suite without.
        out: the directory.
        resume: whether it is to be continued.
        here: whether this machine measures.
        audits: looks up that of this machine, for a run that has none yet.

    Raises:
        UserError: it cannot be begun, or was begun with something else than it is continued with;
            or what is known of audits is damaged, and then nothing has been begun.
    """
    # A machine that only submits jobs need not be asked for its GPU.
    device = config.device if here else "cpu"
    found = provenance(
        device, config.threads, sys.orig_argv, seed=config.seed, variables=workers.inherited()
    )
    if not resume:
        audit = audits(config, found["machine_id"]) if audits else None
        return begin(config, plan, out, models={}, provenance=found, data=data, audit=audit)
    asked, timed = _published(config, out), isinstance(config, TimedConfig)
    if not timed:  # models are compared by what they learn, on any machine
        del asked["threads"]
    together = len(plan.contenders) if in_turns(config, plan) else 1
    writer = store.RunWriter.resume(out, asked, together)
    try:
        _require_same(writer, plan, data, found["machine_id"] if here and timed else None)
        if audits and writer.meta["audit"] is None:
            writer.update(audit=audits(config, writer.meta["provenance"]["machine_id"]))
        if writer.meta["state"] != "finished":
            _record_resumption(writer, found, here=here)
    except BaseException:
        writer.close()
        raise
    return writer


def _published(config: RunConfig, out: Path) -> dict[str, Any]:
    """The configuration as ``run.json`` has it, without folders of this machine."""
    known = plugins.published(config.plugins, out)
    return config.to_json() | {"out": None, "plugins": known}


def _require_same(
    writer: store.RunWriter, plan: Plan, data: Mapping[str, Any] | None, machine_id: str | None
) -> None:
    """Cells of two machines make no comparison, nor do those of two plans or of two texts.

    Args:
        writer: of the run that is continued.
        plan: its cells now.
        data: its text or tasks now.
        machine_id: the machine it is to have been begun on; None for any.
    """
    begun = writer.meta["provenance"].get("machine_id")
    if machine_id is not None and begun != machine_id:
        raise UserError(
            f"{writer.path} was begun on another machine ({begun}, this one is {machine_id})",
            "continue it there, or begin a new run with another --out",
        )
    if writer.meta["plan"] != plan.to_json():
        raise UserError(
            f"{writer.path} was begun with other cells than this version of the suite plans",
            "begin a new run with another --out",
        )
    if writer.meta.get("data") != data:
        raise UserError(
            f"{writer.path} was begun with another text: its content or its tokens have changed",
            "restore the text, or begin a new run with another --out",
        )


def _record_resumption(writer: store.RunWriter, found: Mapping[str, Any], *, here: bool) -> None:
    begun = writer.meta["provenance"]
    session = {"from_process": writer.last_process + 1, "provenance": found}
    warnings = writer.meta["warnings"] + [
        f"{what} changed before the run was resumed" for what in _changes(begun, found, here=here)
    ]
    writer.update(
        resumed=[*writer.meta["resumed"], session],
        warnings=list(dict.fromkeys(warnings)),
    )


def _changes(begun: Mapping[str, Any], now: Mapping[str, Any], *, here: bool) -> Iterator[str]:
    """What decides on speed, or on a sum's last bit, and is another than when the run was begun.

    Of a machine that only submits jobs the software alone is looked at.
    """
    yield from (key for key in ("commit", "versions", "python") if begun.get(key) != now[key])
    if not here:
        return
    if begun.get("machine_id") != now["machine_id"]:
        yield "the machine, and with it seconds and tokens/s,"
    if begun.get("threads") != now["threads"]:
        yield "the number of threads"
    own, other = (_settings(provenance) for provenance in (begun, now))
    if own != other:
        yield "the environment"


def _settings(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The environment but for where caches lie; how threads wait is settled before they begin."""
    found = provenance.get("environment") or {}
    kept = {
        n: given for n, given in found.items() if not n.endswith("_DIR") and n not in SPIN_LIMITS
    }
    return kept | (provenance.get("wait_policy") or {})
