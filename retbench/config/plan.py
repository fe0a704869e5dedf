"""What a run measures, and in which order: points, contenders, blocks.

A *point* is one coordinate of the sweep. A *cell* is a point for one contender; it is measured
once in each *block*, by a fresh worker process of that contender. Where contenders take turns they
do so in *rounds*, each in a random order, so that nothing that happens to the machine favours
anybody (rule M6). Points ascend, so that the first to run out of memory is the smallest that does.

    >>> plan = Plan("inference", (Contender("retnet", "retnet"),), (Point(512, 1),), 1, seed=0)
    >>> [(block, contender.label, point.id) for block, contender, point in plan.cells()]
    [(0, 'retnet', 'context=512,batch=1')]
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from retbench.errors import UserError

Setting = str | int | float
Axis = Literal["context", "batch"]


@dataclass(frozen=True, order=True)
class Point:
    """One coordinate of the sweep.

    Attributes:
        seq_len: tokens of context.
        batch_size: sequences.
        settings: further coordinates by name, in the order of the id: a training suite's stage,
            learning rate, preset or task.
        once: measured in the first block alone, as the learning rates are that are tried out.
        sweeps: the axes along which the run sweeps through this point: the context, the batch
            size, both or neither. It tells no two points apart.
    """

    seq_len: int
    batch_size: int
    settings: tuple[tuple[str, Setting], ...] = ()
    once: bool = False
    sweeps: tuple[Axis, ...] = field(default=(), compare=False)

    @property
    def id(self) -> str:
        """The name of the point in samples and on the command line."""
        sizes = {"context": self.seq_len, "batch": self.batch_size}
        return ",".join(f"{name}={given}" for name, given in (self.texts | sizes).items())

    @property
    def texts(self) -> dict[str, str]:
        """The further coordinates by name, as the id has them."""
        return {
            name: f"{given:g}" if isinstance(given, float) else str(given)
            for name, given in self.settings
        }

    def setting(self, name: str, default: Setting | None = None) -> Setting | None:
        """A further coordinate, or ``default`` where the point has none of that name."""
        return dict(self.settings).get(name, default)

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON-able values; :meth:`from_json` gives back an equal point."""
        return {**asdict(self), "settings": dict(self.settings), "sweeps": list(self.sweeps)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Point:
        """The inverse of :meth:`to_json`."""
        given = {name: document[name] for name in ("seq_len", "batch_size", "once")}
        settings = tuple(document["settings"].items())
        return cls(**given, settings=settings, sweeps=tuple(document["sweeps"]))

    @property
    def tokens(self) -> int:
        """Tokens of the whole batch."""
        return self.seq_len * self.batch_size


@dataclass(frozen=True)
class Contender:
    """One side of the comparison.

    Attributes:
        label: its name in samples, tables and plots; unique in a run.
        family: its name in the models' registry.
        options: overrides of the model's configuration, for this contender alone.
        slowdown: by how much every timed call of it is made to last longer, relative; what an
            audit plants and must find, 0 in every other run.
    """

    label: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    slowdown: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON-able values: the arguments of an equal contender."""
        document = {"label": self.label, "family": self.family, "options": dict(self.options)}
        return document | ({"slowdown": self.slowdown} if self.slowdown else {})


@dataclass(frozen=True)
class Plan:
    """All cells of a run.

    Attributes:
        suite: its name.
        contenders: the sides of the comparison; the first is the subject.
        points: the sweep.
        blocks: the most that are measured, each by fresh processes.
        seed: of every random order.
        only: the one block that is measured here, where a run is in parts; None for all.
        least: blocks after which a run may stop, where it has found what it was asked for; None
            where it measures all.
        primary: the comparisons that the run is made for, named before it: ``(metric, point id)``.
            Their verdicts are corrected together, all others are exploratory (rule M11).

    Raises:
        UserError: two contenders share a label, or a point occurs twice; their samples could not
            be told apart.
    """

    suite: str
    contenders: tuple[Contender, ...]
    points: tuple[Point, ...]
    blocks: int
    seed: int
    only: int | None = None
    least: int | None = None
    primary: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _require_unique("model", [contender.label for contender in self.contenders])
        _require_unique("point", [point.id for point in self.points])

    @property
    def measured_blocks(self) -> range:
        """The blocks that may be measured here, in order."""
        return range(self.blocks) if self.only is None else range(self.only, self.only + 1)

    @property
    def certain(self) -> Plan:
        """The part of the plan that is measured whatever is found."""
        return self if self.least is None else replace(self, blocks=self.least, least=None)

    def order(self, block: int, *more: object) -> list[Contender]:
        """The contenders in the order of one block, or of what ``more`` names in it.

        It is random in an even block, and the reverse of that in the next one: what coming first
        does to a contender falls on both of a pair alike. The same for the same seed, always.
        """
        contenders = list(self.contenders)
        self.shuffler(block - block % 2, *more).shuffle(contenders)
        return contenders[::-1] if block % 2 else contenders

    def shuffler(self, block: int, *more: object) -> random.Random:
        """What draws the orders of one block, or of a part of it that ``more`` names.

        The generator is seeded with a string, which Python hashes with SHA-512: unlike ``hash``
        of a tuple, it depends on neither the version nor the process.
        """
        return random.Random(" ".join(map(str, ("retbench order", self.seed, block, *more))))

    def ascending(self, block: int = 0) -> list[Point]:
        """The points of a block from the fewest tokens to the most.

        Among equals the shorter context comes first, and else the order of ``points`` stays.
        """
        points = [point for point in self.points if block == 0 or not point.once]
        return sorted(points, key=lambda point: (point.tokens, point.seq_len))

    def cells(self) -> Iterator[tuple[int, Contender, Point]]:
        """Yield ``(block, contender, point)``: in the order of execution where turns are taken."""
        for block in self.measured_blocks:
            for point in self.ascending(block):
                for contender in self.order(block):
                    yield block, contender, point

    def keys(self, block: int) -> set[tuple[int, str, str]]:
        """The ``(block, model, point)`` of all cells of a block."""
        points = self.ascending(block)
        return {(block, c.label, point.id) for c in self.contenders for point in points}

    def to_json(self) -> dict[str, Any]:
        """The plan as ``run.json`` keeps it, the order of every block included."""
        document: dict[str, Any] = {
            "suite": self.suite,
            "contenders": [contender.to_json() for contender in self.contenders],
            "points": [point.to_json() | {"point": point.id} for point in self.points],
            "blocks": self.blocks,
            "seed": self.seed,
            "order": [[c.label for c in self.order(block)] for block in range(self.blocks)],
        }
        further = {"only": self.only, "least": self.least}
        return document | {name: given for name, given in further.items() if given is not None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_json`, but for ``primary``, which ``run.json`` has elsewhere."""
        return cls(
            document["suite"],
            tuple(Contender(**given) for given in document["contenders"]),
            tuple(map(Point.from_json, document["points"])),
            document["blocks"],
            document["seed"],
            document.get("only"),
            document.get("least"),
        )


def _require_unique(what: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{what} {repeated[0]!r} occurs twice in the run", "name each one once")
