"""In what two configs differ, and whether all ranks were asked for the same."""

from dynamics.options import invalid
from dynamics.training import on_all, on_first, world


def agree(what: str, asked: dict[str, object]) -> None:
    """Refuse ranks that were asked for different things, before anything is computed. All ranks call it together.

    Args:
        what: What was asked for, for the error's text.
        asked: Plain data.

    Raises:
        ValueError: On every rank, naming one that differs from the first and the values in which it does.
    """
    of_first = on_first(lambda: asked)

    def check() -> None:
        if different := differences(of_first, asked):
            remedy = "start every rank with the same command and the same version of this package"
            raise invalid(f"{what} of rank {world().rank}", ", ".join(different), "the same on every rank", remedy)

    on_all(check)


def differences(a: object, b: object, name: str = "") -> list[str]:
    """Name the values in which two configs differ, as plain data."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{name}.{k}".lstrip("."))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{name}.{i}")]
    return [] if a == b else [f"{name}: {a!r} there, {b!r} asked for"]
