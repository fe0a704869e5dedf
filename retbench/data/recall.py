"""Synthetic tasks that ask a model to recall what it has read, exactly.

``mqar``: multi-query associative recall (Arora et al. 2023, arXiv 2312.04927): pairs of a key and a
value, then keys in random order, each to be answered with its value. ``copy``: a random string, a
delimiter, the string again (Jelassi et al. 2024, arXiv 2402.01032). ``needle``: one marked value in
random filler, asked for at the end. Everything is a pure function of seed and step; sequences are
filled up at the front, and only answers are scored.

    >>> task = TASKS["copy"]
    >>> tokens, targets = task.examples(np.random.default_rng(0), 1, 16, np.array([3]))
    >>> int((targets != IGNORED).sum())
    3
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retbench.data.batches import IGNORED, Ints, fingerprint
from retbench.errors import UserError

FILLER, DELIMITER, ASK = 0, 1, 2
KEYS = range(3, 19)
VALUES = range(19, 51)
VOCAB_SIZE = 51

_TRAINING, _DEV, _TEST = 0, 1, 2


class Task(ABC):
    """One kind of recall.

    Attributes:
        name: what ``--tasks`` calls it.
        chance: accuracy of guessing among the answers that can occur.
        loads: how much there is to recall: pairs, tokens to copy, needles.
        share: the share of a run's steps that suffices to learn it.
        load_name: what the load counts.
        shown: whether a sequence shows as many values as its load, all answers among them.
    """

    name: str
    chance = 1 / len(VALUES)
    loads: tuple[int, ...]
    share: float
    load_name: str
    shown = True

    @abstractmethod
    def least(self, load: int) -> int:
        """Tokens that a sequence of that load takes at least."""

    @abstractmethod
    def write(self, random: np.random.Generator, load: int, tokens: Ints) -> slice:
        """Write a sequence and its last target over filler, int64 (length + 1,).

        Returns:
            The places among the first ``length`` whose next tokens are answers.
        """

    def fitting(self, length: int) -> tuple[int, ...]:
        """The loads that fit into a sequence of that length."""
        return tuple(load for load in self.loads if self.least(load) <= length)

    def examples(
        self, random: np.random.Generator, count: int, length: int, loads: Sequence[int] | Ints
    ) -> tuple[Ints, Ints]:
        """Sequences of loads drawn evenly from ``loads``: tokens and targets, (count, length)."""
        tokens = np.full((count, length + 1), FILLER, dtype=np.int64)
        targets = np.full((count, length), IGNORED, dtype=np.int64)
        drawn = random.choice(np.asarray(loads), size=count)
        for row, goal, load in zip(tokens, targets, drawn, strict=True):
            asked = self.write(random, int(load), row)
            goal[asked] = row[1:][asked]
        return tokens[:, :-1], targets


class AssociativeRecall(Task):
    """Pairs of key and value, then queries."""

    name = "mqar"
    loads = (2, 4, 8, 16)
    share = 1.0
    load_name = "pairs"

    def least(self, load: int) -> int:
        """The pairs, and as many queries with their answers."""
        return 4 * load

    def write(self, random: np.random.Generator, load: int, tokens: Ints) -> slice:
        """The pairs, then every key at least once, as often as there is room, with its value.

        Many questions about few pairs are what the binding of key and value is learned from in few
        steps. An odd length begins with filler.
        """
        keys = random.permutation(np.array(KEYS))[:load]
        values = random.choice(np.array(VALUES), size=load)
        length = len(tokens) - 1
        count = length // 2 - load
        further = random.integers(load, size=count - load)
        order = random.permutation(np.concatenate((np.arange(load), further)))
        begin, queries = length % 2, length - 2 * count
        tokens[begin:queries:2], tokens[begin + 1 : queries : 2] = keys, values
        tokens[queries:-1:2], tokens[queries + 1 : -1 : 2] = keys[order], values[order]
        return slice(queries, None, 2)


class Copying(Task):
    """A string without repetitions, a delimiter, and the string again."""

    name = "copy"
    loads = (4, 8, 15, 31)
    share = 0.5
    load_name = "tokens to copy"

    def least(self, load: int) -> int:
        """The string twice, and the delimiter between; the last token is not read."""
        return 2 * load + 1

    def write(self, random: np.random.Generator, load: int, tokens: Ints) -> slice:
        """Filler, the string, the delimiter, the string; each token of the copy is an answer."""
        text = random.permutation(np.array(VALUES))[:load]
        tokens[-2 * load - 1 :] = *text, DELIMITER, *text
        return slice(-load, None)


class Needle(Task):
    """One marked value in filler."""

    name = "needle"
    loads = (1,)
    share = 0.5
    load_name = "needle"
    shown = False

    def least(self, load: int) -> int:
        """The mark, the value, some filler and the question."""
        return 8

    def write(self, random: np.random.Generator, load: int, tokens: Ints) -> slice:
        """Random filler, in it the mark and the value; the mark again at the end."""
        length = len(tokens) - 1
        tokens[:length] = random.choice(np.array(KEYS), size=length)
        value = random.choice(np.array(VALUES))
        place = random.integers(length - 3)
        tokens[place : place + 2] = tokens[-2:] = ASK, value
        return slice(-1, None)


TASKS: dict[str, Task] = {task.name: task for task in (AssociativeRecall(), Copying(), Needle())}


@dataclass(frozen=True)
class RecallBatches:
    """Training batches of a task: pure functions of the step.

    The loads are mixed within a batch, so that the light ones, from which a task is learned sooner,
    come along with the heavy ones.

    Attributes:
        task: what is asked.
        batch_size: sequences.
        seq_len: tokens of a sequence.
        seed: the seed of all randomness.
    """

    task: Task
    batch_size: int
    seq_len: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse a length that no load fits into.

        Raises:
            UserError: says which length would do.
        """
        least = min(self.task.least(load) for load in self.task.loads)
        if self.seq_len < least:
            raise UserError(
                f"context: {self.seq_len} tokens are too few for the task {self.task.name}",
                f"it takes {least} at least",
            )

    def batch(self, step: int) -> tuple[Ints, Ints]:
        """Inputs and targets of a step, int64 (batch, time)."""
        random = _generator(self.seed, _TRAINING, step)
        loads = self.task.fitting(self.seq_len)
        return self.task.examples(random, self.batch_size, self.seq_len, loads)

    def digest(self, steps: int) -> int:
        """A fingerprint of the first and the last batch."""
        arrays = (array for step in (0, steps - 1) for array in self.batch(step))
        named = f"{self.task.name} {steps}".encode()
        return fingerprint((named, *(array.tobytes() for array in arrays)))


def dev_set(task: Task, length: int, seed: int, count: int) -> tuple[Ints, Ints]:
    """Sequences to choose a learning rate by, of every load that fits."""
    return task.examples(_generator(seed, _DEV, length), count, length, task.fitting(length))


def test_set(task: Task, length: int, load: int, seed: int, count: int) -> tuple[Ints, Ints]:
    """Sequences to test on, of one length and one load."""
    random = _generator(seed, _TEST, length * 1009 + load)
    return task.examples(random, count, length, [load])


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """A stream of its own for each purpose and number (Philox, Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, number]))
