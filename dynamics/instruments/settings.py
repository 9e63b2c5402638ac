"""What a measurement depends on, beside its labels."""

from typing import Any

from dynamics.options import Options

UNSAID = {"kind", "every", "by_time", "num_splits", "groups", "rows_per_pass", "learning_rate"}
"""Options that leave the meaning of the values alone, or show in the result itself."""


def settings(options: Options) -> dict[str, Any]:
    """Return the attributes of a measurement; measurements of one series must agree in them.

    Example:
        >>> from dynamics.instruments import GapsOptions
        >>> settings(GapsOptions(gap_edges=(0.1, 0.9), t_edges=(0.0, 1.0)))
        {'rows_per_bin': 64, 'gap_edges': [0.1, 0.9], 't_edges': [0.0, 1.0], 'weights': 'ema'}
    """
    said = {name: value for name, value in options.model_dump().items() if name not in UNSAID}
    if said.get("backend") == "exact":
        del said["sketch_size"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
