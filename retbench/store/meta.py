"""``run.json``: what it holds; read and checked here, and nowhere else."""

# No postponed annotations here: which keys are required could then not be read off the class.
import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NotRequired, TypedDict, cast, get_args, get_origin, get_type_hints

from retbench.config.plan import Plan
from retbench.errors import UserError
from retbench.metrics import SCHEMA_VERSION

RUN_FILE = "run.json"

State = Literal["running", "interrupted", "finished"]


class Digest(TypedDict):
    """The samples at the end of a run: how many lines, and their SHA-256."""

    lines: int
    sha256: str


class RunMeta(TypedDict):
    """The content of ``run.json``.

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
        block_s: seconds that each block took, by its number.
        stopped: why a run that could have gone on ended; None for any other.
        warnings: what the run itself warns of.
        samples: their digest; None while the run goes on.
        parts: of a run in parts what each block says of its machine.
        jobs: of such a run the ids of its jobs, by block.
    """

    schema_version: int
    started: str
    finished: str | None
    state: State
    elapsed_s: float
    suite: str
    configuration: dict[str, Any]
    plan: dict[str, Any]
    primary: list[Any]
    data: dict[str, Any] | None
    models: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    resumed: list[dict[str, Any]]
    ceilings: dict[str, Any] | None
    audit: dict[str, Any] | None
    block_s: dict[str, float]
    stopped: dict[str, Any] | None
    warnings: list[str]
    samples: Digest | None
    parts: NotRequired[list[dict[str, Any]]]
    jobs: NotRequired[dict[str, list[str]]]


def read_meta(path: str | Path) -> RunMeta:
    """The content of a run's ``run.json``, without a look at its samples.

    Raises:
        UserError: there is none, it is damaged or foreign, or of another schema.
    """
    file = Path(path) / RUN_FILE
    try:
        meta = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        problem = "does not exist"
        if Path(path).exists():
            problem = "holds no run.json" if Path(path).is_dir() else "is a file"
        raise UserError(f"{path} {problem}", "name the folder of a run") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise UserError(f"{file}:{line}: damaged, not JSON", "restore it from a copy") from None
    _check(file, meta)
    return cast(RunMeta, meta)


def _check(file: Path, meta: object) -> None:
    version = meta.get("schema_version") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or type(version) is not int:
        raise UserError(f"{file}:1: not written by Retbench: it has no schema_version")
    if version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise UserError(
            f"{file}: schema version {version} is {'newer' if newer else 'older'} than this "
            f"Retbench reads ({SCHEMA_VERSION})",
            "update Retbench" if newer else "measure it anew",
        )
    if problem := _problem(meta):
        raise UserError(f"{file}:1: damaged, {problem}", "restore it from a copy")


def _problem(meta: dict[str, Any]) -> str | None:
    """What keeps ``meta`` from being a run's, in a few words; None if nothing does."""
    for key, hint in get_type_hints(RunMeta).items():
        if key not in meta:
            if key in RunMeta.__required_keys__:
                return f"it lacks {key!r}"
        elif not _fits(meta[key], hint):
            return f"{key!r} holds {meta[key]!r:.60}"
    try:
        Plan.from_json(meta["plan"])
    except (KeyError, TypeError, AttributeError, UserError) as error:
        return f"its plan: {error}"
    return None


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of the kind that a hint names, whatever it holds inside."""
    if get_origin(hint) is UnionType:
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is Digest:
        return isinstance(value, dict) and Digest.__required_keys__ <= value.keys()
    kind = get_origin(hint) or hint
    return isinstance(value, (int, float) if kind is float else kind)
