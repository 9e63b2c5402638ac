"""The habits every room shares: frozen options and errors that tell the reader what to do."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """A room's options: immutable, and an unknown field is an error rather than a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def later(default: Any, **constraints: Any) -> Any:
    """Declare a field that joined its options after runs were made: at its default, JSON leaves it out.

    A run is known by the hash of its JSON; so runs keep their ids when the toolkit learns something new.

    Example:
        >>> class Sampler(Options):
        ...     nfe: int = 1
        ...     churn: float = later(0.0, ge=0)
        >>> Sampler().model_dump_json(), Sampler(churn=0.5).model_dump_json()
        ('{"nfe":1}', '{"nfe":1,"churn":0.5}')
    """
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


def invalid(name: str, received: object, allowed: str, remedy: str) -> ValueError:
    """Build the error for bad input: what is wrong, what came, what is allowed, what to do.

    Example:
        >>> raise invalid("gap_share", 1.5, "0 <= gap_share <= 1", "pass the share of r < t rows")
        Traceback (most recent call last):
        ...
        ValueError: gap_share: received 1.5; allowed: 0 <= gap_share <= 1; remedy: pass the share of r < t rows
    """
    return ValueError(f"{name}: received {received!r}; allowed: {allowed}; remedy: {remedy}")


def check_edges(name: str, edges: Sequence[float]) -> None:
    """Refuse bin edges that are not at least two increasing numbers in [0, 1]."""
    increasing = all(lo < hi for lo, hi in pairwise(edges))
    if len(edges) < 2 or not increasing or edges[0] < 0 or edges[-1] > 1:
        raise invalid(name, edges, "at least two increasing numbers in [0, 1]", "for example 0 0.1 0.3 0.5 0.7 0.9 1")
