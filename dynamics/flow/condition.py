"""What a velocity is conditioned on beside times: class labels, or anything else that has rows.

A condition c travels with its rows as one value: a tensor, such as labels [B], or a `Joint` of several. What those rows
mean, how a network embeds them and what it sees when nothing is asked for is said once, by a `Condition`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, TypeVar, cast

import torch
from torch import Tensor, nn

C = TypeVar("C", bound="Tensor | Joint")


@dataclass(frozen=True)
class Joint:
    """Several tensors that condition the same rows; a subclass is a frozen dataclass of them, [B, ...] each.

    Example:
        >>> @dataclass(frozen=True)
        ... class Guided(Joint):
        ...     label: Tensor
        ...     scale: Tensor
        >>> both = Guided(torch.tensor([3, 5]), torch.tensor([1.0, 2.0]))
        >>> len(both), both[1:].scale.tolist()
        (2, [2.0])
    """

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with each tensor replaced by f(tensor)."""
        return type(self)(**{field.name: f(getattr(self, field.name)) for field in fields(self)})

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, rows: Any) -> Self:
        return self.map(lambda tensor: tensor[rows])


def each(c: C, f: Callable[[Tensor], Tensor]) -> C:
    """Return c with each of its tensors replaced by f(tensor)."""
    return cast(C, c.map(f) if isinstance(c, Joint) else f(c))


def tensors(c: "Tensor | Joint") -> list[Tensor]:
    """Return the tensors of c."""
    return [getattr(c, field.name) for field in fields(c)] if isinstance(c, Joint) else [c]


def like(c: C, parts: Sequence[Tensor]) -> C:
    """Return a condition of the kind of c that holds other tensors, in the order of `tensors`."""
    iterator = iter(parts)
    return each(c, lambda _: next(iterator))


def select(where: Tensor, a: C, b: C) -> C:
    """Return the rows of a where `where` [B] bool holds, and those of b elsewhere."""
    pairs = zip(tensors(a), tensors(b), strict=True)
    return like(a, [torch.where(where.reshape(-1, *[1] * (x.ndim - 1)), x, y) for x, y in pairs])


def concatenated(parts: Sequence[C]) -> C:
    """Return conditions of one kind, one after another."""
    columns = zip(*(tensors(part) for part in parts), strict=True)
    return like(parts[0], [torch.cat(column) for column in columns])


class Condition(ABC):
    """What the rows of a condition are; equal conditions are equal objects, so that they can be compared and hashed."""

    num_classes: int = 0
    """Number of classes, where the condition (or a part of it) is a class label; else 0."""

    @abstractmethod
    def embedding(self, dim: int) -> nn.Module:
        """Return a new module that maps c to [B, dim], which a network adds to the embedding of its times."""

    @abstractmethod
    def null(self, c: Any) -> Any:
        """Return a condition of the kind and size of c whose rows ask for nothing."""

    @abstractmethod
    def example(self, num_rows: int) -> Any:
        """Return any condition of so many rows: for counting costs, and for a rank that has no row of its own."""

    @abstractmethod
    def draw(self, num_rows: int, mode: Literal["uniform", "balanced"], stream: torch.Generator) -> Any:
        """Draw the conditions of samples that are to be judged."""

    def pictured(self, num_each: int) -> Any:
        """Return the conditions of a picture, `num_each` rows of each of them, those of one beside one another."""
        return each(
            self.draw(10, "balanced", torch.Generator().manual_seed(0)), lambda a: a.repeat_interleave(num_each, 0)
        )


@dataclass(frozen=True)
class ClassLabels(Condition):
    """Labels 0..num_classes-1, long [B]; num_classes itself is the null class.

    Example:
        >>> ClassLabels(10).null(torch.tensor([3, 4]))
        tensor([10, 10])
    """

    num_classes: int

    def embedding(self, dim: int) -> nn.Module:
        """Return a table with a row for each class and one, the last, for the null class (as in DiT, 2212.09748)."""
        table = nn.Embedding(self.num_classes + 1, dim)
        nn.init.normal_(table.weight, std=0.02)
        return table

    def null(self, c: Tensor) -> Tensor:
        return torch.full_like(c, self.num_classes)

    def example(self, num_rows: int) -> Tensor:
        return torch.zeros(num_rows, dtype=torch.long)

    def draw(self, num_rows: int, mode: Literal["uniform", "balanced"], stream: torch.Generator) -> Tensor:
        """Draw labels uniformly at random, or take equally many of each class."""
        if mode == "balanced":
            return torch.arange(num_rows) % self.num_classes
        return torch.randint(self.num_classes, (num_rows,), generator=stream)

    def pictured(self, num_each: int) -> Tensor:
        return torch.arange(self.num_classes).repeat_interleave(num_each)
