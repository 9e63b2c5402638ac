"""The rows of one batch: images, noise, times and conditions, in a fixed layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from dynamics.flow.condition import Condition, Joint, concatenated, each, select
from dynamics.flow.path import interpolate
from dynamics.flow.times import TimeLaw
from dynamics.options import invalid
from dynamics.rng import generator


@dataclass(frozen=True)
class Rows:
    """Training rows in the layout [rows with r = t | rows with r < t].

    The layout is fixed so that the expensive derivative runs on a contiguous block and shapes do not change. An
    objective that draws more for each row derives a class with more tensors, which are cut and moved like these.
    """

    x: Tensor
    """Images [B, C, H, W] in [-1, 1]."""
    e: Tensor
    """Standard normal noise [B, C, H, W]."""
    t: Tensor
    """Later (noisier) time [B]."""
    r: Tensor
    """Earlier time [B], r <= t."""
    c: Any
    """Condition of B rows, such as labels [B] long."""
    dropped: Tensor
    """[B] bool, True where the condition was replaced by null. On the CPU, so that selecting rows never waits."""
    num_equal: int
    """How many rows, from the front, have r = t."""
    condition: Condition
    """What c is."""

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def num_gap(self) -> int:
        """How many rows, at the back, have r < t."""
        return len(self) - self.num_equal

    def path(self) -> tuple[Tensor, Tensor]:
        """Return z_t and v of every row, [B, C, H, W] each."""
        return interpolate(self.x, self.e, self.t)

    def drop(self, where: Tensor) -> Self:
        """Return the rows without a condition where `where` [B] bool holds."""
        return replace(self, c=select(where, self.condition.null(self.c), self.c), dropped=where)

    def shard(self, index: int, count: int) -> Self:
        """Return every `count`-th row from `index`: the share of a rank or of one accumulation step.

        The layout survives, and all shards together are the batch.
        """
        if len(self) % count:
            raise invalid("batch_size", len(self), f"a multiple of {count}", "change batch_size or accumulation")
        part = slice(index, None, count)
        return self._map(lambda column: column[part], num_equal=len(range(index, self.num_equal, count)))

    def part(self, start: int, stop: int) -> Self:
        """Return the rows from `start` up to `stop`, in their layout."""
        num_equal = min(max(self.num_equal - start, 0), stop - start)
        return self._map(lambda column: column[start:stop], num_equal=num_equal)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Self:
        """Return the rows on `device`, floating point in `dtype`; the mask of dropped conditions stays on the CPU."""
        if device.type == "cpu" and dtype in (None, self.x.dtype):
            return self

        def moved(column: Tensor) -> Tensor:
            return column.to(device, dtype if column.is_floating_point() else None, non_blocking=True)

        return replace(self._map(lambda column: each(column, moved), self.num_equal), dropped=self.dropped)

    def _map(self, f: Callable[[Any], Any], num_equal: int) -> Self:
        columns = {name: f(column) for name, column in self._columns().items()}
        return replace(self, **columns, num_equal=num_equal)

    def _columns(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor | Joint)}


def draw_rows(
    x: Tensor,
    c: Any,
    condition: Condition,
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
        c: Their condition, such as labels [B].
        condition: What c is.
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
    return Rows(x, e, t, r, c, torch.zeros(len(x), dtype=torch.bool), num_equal, condition)


def chained(parts: Sequence[Rows]) -> Rows:
    """Chain rows of one kind; all r = t rows must come before the first row with r < t."""
    first_gap = next((i for i, part in enumerate(parts) if part.num_gap), len(parts))
    assert not any(part.num_equal for part in parts[first_gap + 1 :]), "r = t rows come first"
    columns = {name: concatenated([getattr(part, name) for part in parts]) for name in parts[0]._columns()}
    return replace(parts[0], **columns, num_equal=sum(part.num_equal for part in parts))
