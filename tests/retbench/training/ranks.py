"""Trainings in several processes, as a program that each of them runs: ``ranks.py KIND FOLDER``.

Every case is a training of a small decoder; rank 0 writes what came of each to FOLDER/KIND.json,
and of the same cases alone where KIND is ``alone``.
"""

import functools
import json
import sys
from pathlib import Path

import small
import torch

from retbench import distributed
from retbench.data.batches import RandomWindows
from retbench.training import evaluation
from retbench.training.loop import train
from retbench.training.step import IGNORED

CASES = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "ragged": {"accumulate": 2},
    "recomputed": {"checkpoint_activations": True},
    "compiled": {"checkpoint_activations": True, "compile": True, "accumulate": 2},
    "transformer": {},
    "diverging": {"learning_rate": 50.0, "grad_clip": 0.0, "steps": 40},
}


class Ragged:
    """Batches that score some targets of the first rank's rows, and none of the second's."""

    def __init__(self, source):
        self._source = source

    def batch(self, step):
        inputs, targets = self._source.batch(step)
        targets = targets.copy()
        targets[2:] = IGNORED
        targets[1, step % 16 + 1 :] = IGNORED
        return inputs, targets


def case(name, ranks):
    config = small.training(**{"steps": 8, "record_every": 1, "learning_rate": 1e-3} | CASES[name])
    source = RandomWindows(small.tokens(), batch_size=4, seq_len=16, seed=0)
    family = "transformer" if name == "transformer" else "retnet"
    model = small.decoder(family)

    def dev():
        tokens = small.tokens(545, seed=1)
        return evaluation.mean_loss(model, tokens, window=16, at_most=544, ranks=ranks)

    training = train(
        model, Ragged(source) if name == "ragged" else source, config, dev=dev, ranks=ranks
    )
    whole = ranks.unshard(model, lambda: small.decoder(family))
    return {
        "status": training.status,
        "train_loss": [record.train_loss for record in training.records],
        "dev_loss": [r.dev_loss for r in training.records if r.dev_loss is not None],
        "norm": sum(float(p.detach().double().square().sum()) for p in whole.parameters())
        if ranks.first
        else None,
    }


def main(kind, folder):
    torch.set_num_threads(1)
    # Traces and graphs alone; the code that would be made of them takes a minute.
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    evaluation.BATCH_TOKENS = 256  # three batches: one rank has none in the second turn
    with distributed.connect(None if kind == "alone" else kind) as ranks:
        found = {name: case(name, ranks) for name in CASES}
        if ranks.first:
            Path(folder, f"{kind}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
