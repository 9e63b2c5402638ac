"""Snapshots of power-function averages, kept over a run, and averages of any length rebuilt from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.training.checkpoint_content import weights_files
from dynamics.training.optimisation import TrainingOptions
from dynamics.training.power_averages import check_carried, length_in
from dynamics.training.shards import Shards
from dynamics.training.state import TrainState, Weights
from dynamics.training.step_folders import StepFolders


@dataclass(frozen=True)
class Snapshots(StepFolders):
    """The snapshots of one run: its averages along power functions, whole or in parts as in a checkpoint."""

    WORD, STAY, WHOLE = "snapshot", "those that training.ema_lengths and training.snapshot_every ask for", False

    keep: int | None = None

    def save(self, state: TrainState, options: TrainingOptions) -> Path:
        """Write the state's averages along power functions; every rank must call this.

        One of the same step is replaced: a resumed run passes it again.
        """
        dtype = torch.float16 if options.snapshot_precision == "float16" else None
        averages = {average: ema for average, ema in state.emas.items() if length_in(average) is not None}
        kinds = {f"ema_{a}": {name: weight.to(dtype) for name, weight in ema.items()} for a, ema in averages.items()}
        return self.put(state.step, kinds, {"emas": list(averages), "precision": options.snapshot_precision})

    def summands(self, length: float, step: int | None = None) -> tuple[int, list[tuple[dict[str, Any], str, float]]]:
        """Return at which step an average of a length ends, and of what it is the sum.

        Args:
            length: Standard deviation of its profile as a share of the steps so far.
            step: Of a snapshot; None takes the newest.

        Returns:
            The step; by kept average the content of its snapshot's state.json, its name and its factor.

        Raises:
            ValueError: There is no such snapshot, or those there are do not carry that length.
        """
        end = max(self.steps(), default=0) if step is None else step
        if self.steps():
            self._check_step(end)
        contents = [self.content(s) for s in self.steps() if s <= end]
        kept = [(content, average) for content in contents for average in content["emas"]]
        lengths, ends = [length_in(average) or 0.0 for _, average in kept], [content["step"] for content, _ in kept]
        precision = "float16" if any(content.get("precision") == "float16" for content in contents) else "float32"
        factors = check_carried(length, end, lengths, ends, precision).factors
        return end, [(*place, float(factor)) for place, factor in zip(kept, factors, strict=True) if factor]

    def rebuilt_weights(self, length: float, step: int | None = None) -> tuple[int, Weights]:
        """Return (step, weights) of the average of any length up to a step; a kept length comes back as it is.

        Args:
            length: Standard deviation of its profile as a share of the steps so far.
            step: Of a snapshot; None takes the newest.

        Raises:
            ValueError: There is no such snapshot, or those there are do not carry that length.
            DamagedCheckpointError: One fails its checksums. To do without it, remove its folder.
        """
        end, used = self.summands(length, step)
        for s in {content["step"] for content, _, _ in used}:
            self.verify(s)
        shards = [
            (Shards.open(self.path(content["step"]) / name for name in weights_files(content, average)), float(factor))
            for content, average, factor in used
        ]

        def together(name: str) -> Tensor:
            total, dtype = torch.zeros(shards[0][0].shapes[name], dtype=torch.float64), torch.float32
            for part, factor in shards:
                weight = part.whole(name)
                total += factor * weight.double()
                dtype = torch.promote_types(dtype, weight.dtype)
            return total.to(dtype)

        return end, {name: together(name) for name in shards[0][0].shapes}
