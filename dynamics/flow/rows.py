"""The rows of one batch: images, noise and times, in a fixed layout."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynamics.flow.path import interpolate
from dynamics.flow.times import TimeLaw
from dynamics.options import invalid
from dynamics.rng import generator


@dataclass(frozen=True)
class Rows:
    """Training rows in the layout [rows with r = t | rows with r < t].

    The layout is fixed so that the expensive derivative runs on a contiguous block and shapes do not change.
    """

    x: Tensor
    """Images [B, C, H, W] in [-1, 1]."""
    e: Tensor
    """Standard normal noise [B, C, H, W]."""
    t: Tensor
    """Later (noisier) time [B]."""
    r: Tensor
    """Earlier time [B], r <= t."""
    y: Tensor
    """Labels [B] long; the null class is num_classes."""
    dropped: Tensor
    """[B] bool, True where the label was dropped to the null class. On the CPU, so that selecting rows never waits."""
    num_equal: int
    """How many rows, from the front, have r = t."""
    v_noise: Tensor | None = None
    """What is added to the target of the r = t rows, [B, C, H, W]; none adds nothing."""

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def num_gap(self) -> int:
        """How many rows, at the back, have r < t."""
        return len(self) - self.num_equal

    def path(self) -> tuple[Tensor, Tensor]:
        """Return z_t and v of every row, [B, C, H, W] each."""
        return interpolate(self.x, self.e, self.t)

    def shard(self, index: int, count: int) -> "Rows":
        """Return every `count`-th row from `index`: the share of a rank or of one accumulation step.

        The layout survives, and all shards together are the batch.
        """
        if len(self) % count:
            raise invalid("batch_size", len(self), f"a multiple of {count}", "change batch_size or accumulation")
        part = slice(index, None, count)
        return Rows(
            self.x[part],
            self.e[part],
            self.t[part],
            self.r[part],
            self.y[part],
            self.dropped[part],
            num_equal=len(range(index, self.num_equal, count)),
            v_noise=None if self.v_noise is None else self.v_noise[part],
        )

    def part(self, start: int, stop: int) -> "Rows":
        """Return the rows from `start` up to `stop`, in their layout."""
        names = ("x", "e", "t", "r", "y", "dropped")
        columns = {name: getattr(self, name)[start:stop] for name in names}
        num_equal = min(max(self.num_equal - start, 0), stop - start)
        v_noise = None if self.v_noise is None else self.v_noise[start:stop]
        return Rows(**columns, num_equal=num_equal, v_noise=v_noise)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Rows":
        """Return the rows on `device`, floating point in `dtype`; the mask of dropped labels stays on the CPU."""
        if device.type == "cpu" and dtype in (None, self.x.dtype):
            return self
        names = ("x", "e", "t", "r", *(() if self.v_noise is None else ("v_noise",)))
        floats = {name: getattr(self, name).to(device, dtype, non_blocking=True) for name in names}
        return replace(self, **floats, y=self.y.to(device, non_blocking=True))


def draw_rows(
    x: Tensor,
    y: Tensor,
    *,
    equal_law: TimeLaw,
    gap_law: TimeLaw,
    num_gap: int,
    seed: int,
    tag: str | int,
    e: Tensor | None = None,
) -> Rows:
    """Give images their noise and times.

    Args:
        x: Images [B, C, H, W].
        y: Labels [B].
        equal_law: Law whose t the r = t rows take.
        gap_law: Law of the r < t rows.
        num_gap: Number of r < t rows, the last of the batch.
        seed: Seed of the run.
        tag: What the rows are for: the step, or the name of a measurement.
        e: Their noise [B, C, H, W], if it is there already.
    """
    num_equal = x.shape[0] - num_gap
    if not 0 <= num_gap <= x.shape[0]:
        raise invalid("num_gap", num_gap, f"0..{x.shape[0]}", "draw at most as many r < t rows as there are images")
    times = generator(seed, "times", tag)
    t_equal, _ = equal_law.sample(num_equal, times)
    t_gap, r_gap = gap_law.sample(num_gap, times)
    if e is None:
        e = torch.randn(x.shape, generator=generator(seed, "noise", tag))
    t, r = torch.cat([t_equal, t_gap]), torch.cat([t_equal, r_gap])
    return Rows(x, e, t, r, y, torch.zeros(len(y), dtype=torch.bool), num_equal)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Chain rows; all r = t rows must come before the first row with r < t."""
    first_gap = next((i for i, part in enumerate(parts) if part.num_gap), len(parts))
    assert not any(part.num_equal for part in parts[first_gap + 1 :]), "r = t rows come first"
    assert all(part.v_noise is None for part in parts), "only instruments chain rows, and theirs are clean"
    columns = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in ("x", "e", "t", "r", "y", "dropped")
    }
    return Rows(**columns, num_equal=sum(part.num_equal for part in parts))
