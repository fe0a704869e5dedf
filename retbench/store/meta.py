"""``run.json``: what it holds; read and checked here, and nowhere else."""

# No postponed annotations here: pydantic reads the types off the classes.
import json
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

from retbench.config.plan import Plan
from retbench.errors import UserError
from retbench.metrics import METRICS, SCHEMA_VERSION
from retbench.store import documents
from retbench.store.files import replace_file

try:
    from annotated_types import Ge, Gt, Le, Len, Predicate
except ImportError:  # with pydantic, which comes with it: only seals are checked then
    Ge = Gt = Le = Len = Predicate = lambda *_: None  # type: ignore[misc, assignment]

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"

_RESTORE = "restore it from a copy"
TEMPORARY = "run.json.tmp"

State = Literal["running", "interrupted", "finished"]

Count = Annotated[int, Ge(0)]
Seconds = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
MetricName = Annotated[str, Predicate(METRICS.__contains__)]


class Digest(TypedDict):
    """The samples at the end of a run: how many lines, and their SHA-256."""

    lines: Count
    sha256: str


class Bandwidth(TypedDict):
    """What was reached at one working set; see :mod:`retbench.machine.ceilings`."""

    working_set_bytes: Annotated[int, Gt(0)]
    read_bytes_per_s: Positive
    copy_bytes_per_s: Positive


class CeilingsRecord(TypedDict):
    """What a machine can do at most; see :mod:`retbench.machine.ceilings`."""

    bandwidth: list[Bandwidth]
    matmul_flop_per_s: dict[str, Positive]
    elapsed_s: NotRequired[Seconds]


class Audit(TypedDict):
    """What an audit found of a machine; see :func:`retbench.engine.audit.audit`."""

    key: NotRequired[str]
    floor: dict[MetricName, Annotated[float, Ge(0), Le(100)]]
    slowdown: Positive
    planted: Count
    found: Count
    compared: NotRequired[Count]
    false: NotRequired[Count]
    time: str
    ceilings: NotRequired[CeilingsRecord | None]


class Stop(TypedDict):
    """Why a run ended that could have gone on."""

    blocks: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0)]
    why: str
    open: list[str]


class Commit(TypedDict):
    """Which commit measured, and whether it was changed since; None where unknown."""

    hash: str | None
    dirty: bool | None


class Provenance(TypedDict, total=False):
    """The machine and the software; see :func:`retbench.machine.provenance.provenance`."""

    processor: dict[str, Any]
    gpu: dict[str, Any] | None
    energy_counter: Literal["nvml", "rapl"] | None
    memory: dict[str, int | None]
    system: dict[str, str | None]
    python: str
    versions: dict[str, str | None]
    commit: Commit | None
    commit_unknown: str | None
    environment: dict[str, str]
    command: str
    threads: Annotated[int, Gt(0)]
    wait_policy: dict[str, str]
    seed: int | None
    time: str
    load_average: list[Seconds]
    machine_id: str


class Session(TypedDict):
    """A later session of a run: its first process, and where it ran."""

    from_process: Count
    provenance: Provenance


class PointRecord(TypedDict):
    """A point of the plan, as :meth:`retbench.config.plan.Point.to_json` gives it."""

    seq_len: Count
    batch_size: Annotated[int, Gt(0)]
    settings: dict[str, str | int | float]
    once: bool
    sweeps: list[Literal["context", "batch"]]


class ContenderRecord(TypedDict):
    """A contender, as :meth:`retbench.config.plan.Contender.to_json` gives it."""

    label: str
    family: str
    options: dict[str, Any]
    slowdown: NotRequired[float]


class PlanRecord(TypedDict):
    """The plan, as :meth:`retbench.config.plan.Plan.to_json` gives it."""

    suite: str
    contenders: Annotated[list[ContenderRecord], Len(1)]
    points: list[PointRecord]
    blocks: Annotated[int, Gt(0)]
    seed: int
    order: NotRequired[list[list[str]]]
    only: NotRequired[Count]
    least: NotRequired[Annotated[int, Gt(0)]]


class ConfigurationRecord(TypedDict):
    """What every suite's configuration has; :func:`retbench.suites.configuration` reads it all."""

    suite: str
    device: str
    threads: Annotated[int, Gt(0)]
    profile: str
    dtype: NotRequired[str]
    dtypes: NotRequired[list[str]]
    context: list[Annotated[int, Gt(0)]]
    batch: list[Annotated[int, Gt(0)]]
    margin: NotRequired[Positive]


class ModelRecord(TypedDict):
    """What a contender is, of the suites that compare models; a projection builds none."""

    family: str
    preset: str
    config: dict[str, Any]
    parameters: Count
    parameters_embedding: Count
    weights_dtype: NotRequired[str]
    state_dtype: NotRequired[str]
    implementation: NotRequired[dict[str, str | None]]
    training: NotRequired[dict[str, Any]]


class OperationRecord(TypedDict):
    """What a contender is, of the suite that compares operations."""

    operation: str
    kind: str
    versions: dict[str, str | None]


Described = ModelRecord | OperationRecord


class RunMeta(TypedDict):
    """The content of ``run.json``, but for its seal.

    Attributes:
        schema_version: of this file and of the samples.
        started: when the run began, ISO 8601.
        finished: when it ended; None while it goes on.
        state: whether it goes on, was interrupted, or is finished.
        elapsed_s: seconds of all sessions that ended in order.
        suite: what is measured.
        configuration: of the run, as :meth:`retbench.config.run.RunConfig.to_json` gives it.
        plan: its cells, as :meth:`retbench.config.plan.Plan.to_json` gives it.
        primary: metric and point id of each comparison that the run is made for.
        data: the text or the tasks; None for a suite without.
        models: what each contender is, by label.
        provenance: the machine and the software.
        resumed: the first process and the provenance of each later session.
        ceilings: what the machine can do at most; None where it was not measured.
        audit: what an audit found of this machine; None where it was not audited.
        cpus: logical processors that the workers kept to; absent where they did not.
        held_bytes: scattered memory that the run held, so that its workers were given other.
        block_s: seconds that each block took, by its number.
        stopped: why a run that could have gone on ended; None for any other.
        warnings: what the run itself warns of.
        samples: their digest; None while the run goes on.
        parts: of a run in parts what each block says of its machine.
        hardware: of a projection the data sheets, by device.
        jobs: of such a run the ids of its jobs, by block.
    """

    schema_version: int
    started: str
    finished: str | None
    state: State
    elapsed_s: Seconds
    suite: str
    configuration: ConfigurationRecord
    plan: PlanRecord
    primary: list[Annotated[list[str], Len(2, 2)]]
    data: dict[str, Any] | None
    models: dict[str, Described]
    provenance: Provenance
    resumed: list[Session]
    ceilings: CeilingsRecord | None
    audit: Audit | None
    cpus: NotRequired[list[Count]]
    held_bytes: NotRequired[Count]
    block_s: dict[str, Seconds]
    stopped: Stop | None
    warnings: list[str]
    samples: Digest | None
    parts: NotRequired[list[dict[str, Any]]]
    hardware: NotRequired[dict[str, Any]]
    jobs: NotRequired[dict[str, list[str]]]


def read_meta(path: str | Path) -> RunMeta:
    """The content of a run's ``run.json``, without a look at its samples.

    Raises:
        UserError: there is none, it is damaged, foreign or changed by hand, or of another schema.
    """
    file = Path(path) / RUN_FILE
    if not os.path.isfile(file):
        problem, hint = "does not exist", "name the folder of a run"
        if os.path.exists(path):
            problem = "holds no run.json" if os.path.isdir(path) else "is a file"
        samples = Path(path) / SAMPLES_FILE
        if os.path.isfile(samples) and not os.path.getsize(samples):  # killed between the two
            problem += ", and nothing was measured"
            hint = "begin the run anew, without --resume"
        raise UserError(f"{path} {problem}", hint)
    content = documents.read(file, _RESTORE)
    _require_schema(file, content)
    meta = documents.unsealed(file, content, _RESTORE)
    if problem_found := _problem(meta):
        raise UserError(f"{file}:1: damaged, {problem_found}", _RESTORE)
    return cast(RunMeta, meta)


def write_meta(path: Path, meta: RunMeta) -> None:
    """Write a run's ``run.json`` with its seal, as a whole.

    Raises:
        UserError: the disk is full or gone; the old one stays.
    """
    data = (json.dumps(documents.sealed(meta), indent=2, allow_nan=False) + "\n").encode()
    replace_file(path / RUN_FILE, path / TEMPORARY, data)


def misfit(kind: Any, content: object) -> str | None:
    """What keeps a document from being what its type says, in a few words; None if nothing does.

    Args:
        kind: a type of this module, such as :class:`Audit`.
        content: what was read.
    """
    try:
        from pydantic import ValidationError  # slow to import, and of no use to most commands
    except ImportError:  # a bare checkout beside other packages: the seal is checked all the same
        return None
    try:
        _checker(kind).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"it lacks {place!r}"
        return f"{place!r} holds {first['input']!r:.60}"
    return None


@cache
def _checker(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _require_schema(file: Path, meta: dict[str, Any]) -> None:
    version = meta.get("schema_version")
    if type(version) is not int:
        raise UserError(f"{file}:1: not written by Retbench: it has no schema_version")
    if version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise UserError(
            f"{file}: schema version {version} is {'newer' if newer else 'older'} than this "
            f"Retbench reads ({SCHEMA_VERSION})",
            "update Retbench" if newer else "measure it anew",
        )


def _problem(meta: dict[str, Any]) -> str | None:
    """What keeps ``meta`` from being a run's, in a few words; None if nothing does."""
    if found := misfit(RunMeta, meta):
        return found
    try:
        Plan.from_json(meta["plan"])
    except UserError as error:
        return f"its plan: {error}"
    except TypeError:  # a contender with a field that none has
        return "its plan is of another version"
    return None
