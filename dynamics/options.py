"""The two habits every room shares: frozen options and errors that tell the reader what to do."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A room's options: immutable, and an unknown field is an error rather than a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def invalid(name: str, received: object, allowed: str, remedy: str) -> ValueError:
    """Build the error for bad input: what is wrong, what came, what is allowed, what to do.

    Example:
        >>> raise invalid("gap_share", 1.5, "0 <= gap_share <= 1", "pass the share of r < t rows")
        Traceback (most recent call last):
        ...
        ValueError: gap_share: received 1.5; allowed: 0 <= gap_share <= 1; remedy: pass the share of r < t rows
    """
    return ValueError(f"{name}: received {received!r}; allowed: {allowed}; remedy: {remedy}")
