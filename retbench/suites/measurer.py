"""What a worker does with a suite: it builds a contender, verifies it, and measures cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from models.protocol import LanguageModel
from retbench.config.plan import Contender
from retbench.config.run import RunConfig
from retbench.suites.base import model_config
from retbench.suites.cell import Cell
from retbench.suites.session import Rows, Session

Progress = Callable[[str], None]
"""Takes the name of each phase as it begins."""


class Measurer(ABC):
    """The half of a suite that a worker has; the other is a :class:`retbench.suites.base.Suite`.

    It is loaded before the memory meter takes its baseline.

    Attributes:
        trains: whether models are trained, so that their weights are kept in float32, whatever type
            computes with them.
    """

    trains: ClassVar[bool] = False

    def load(self, config: Any) -> None:
        """Import what cells will need further, so that their memory is not charged for it."""
        return None

    def build(
        self,
        config: RunConfig,
        contender: Contender,
        options: Mapping[str, Any],
        device: torch.device,
    ) -> Any:
        """What is measured: by default the contender's model, in evaluation mode.

        Args:
            config: the run's configuration.
            contender: the contender to build.
            options: what the suite's ``model_options`` gave.
            device: where it is to be.

        Raises:
            CellFailure: if it cannot be had on this machine.
        """
        dtype = torch.float32 if self.trains else getattr(torch, config.dtype)
        model = model_config(config, contender, options)
        return model.build(device=device, dtype=dtype, seed=config.seed)

    def describe(self, session: Session) -> dict[str, Any]:
        """What ``run.json`` keeps of a contender, under its label."""
        config, model = session.config, session.model
        weights = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
        return {
            "family": session.contender.family,
            "preset": config.preset,
            "config": model.config.to_dict(),
            "parameters": model.num_parameters(),
            "parameters_embedding": model.num_parameters(embeddings=True) - model.num_parameters(),
            "weights_dtype": ",".join(weights),
            "state_dtype": ",".join(state_dtypes(model)),
            "implementation": {
                "prefill": model.implementation("prefill"),
                "decode": model.implementation("decode"),
            },
        }

    @abstractmethod
    def verify(self, session: Session) -> float:
        """Check that the model computes what it should, before any clock runs.

        Returns:
            The error found, relative.

        Raises:
            CellFailure: if the model is broken; it is then never timed.
        """

    @abstractmethod
    def prepare(self, rows: Rows, progress: Progress) -> Cell:
        """Make the cell at ``rows.point`` ready to be timed, and add what is not timed to ``rows``.

        A suite whose contenders do not take turns measures all of it here.

        Args:
            rows: take the samples.
            progress: told of each phase.

        Returns:
            What is to be timed in turns, phase by phase.

        Raises:
            CellFailure: if it cannot be measured; out-of-memory errors may simply pass through.
        """


def state_dtypes(model: LanguageModel) -> list[str]:
    """The names of the types of a state's tensors, sorted, such as ``["float32", "int8"]``.

    None for a model that can only be trained and scored.
    """
    try:
        state = model.init_state(1, 1)
    except NotImplementedError:
        return []
    return sorted({str(t.dtype).removeprefix("torch.") for s in state.layers for t in s.tensors()})
