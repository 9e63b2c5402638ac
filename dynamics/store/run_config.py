"""The configuration that a run's file holds, and the one beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamics import atomic
from dynamics.options import invalid


def leaves(name: str, config_json: str | bytes) -> dict[str, Any]:
    """Flatten a configuration to {"training.learning_rate": 1e-3}; a list is one leaf.

    Args:
        name: What it is, for the error's text.
        config_json: The configuration; an empty string has no leaves.

    Raises:
        ValueError: It is no JSON.
    """
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            found["_".join(prefix.replace("/", "_").split())] = value

    try:
        config = json.loads(config_json or "{}")
        walk("", config if isinstance(config, dict) else {"config": config})
    except (ValueError, RecursionError) as error:
        remedy = "restore the file or run it again"
        raise invalid(name, f"{config_json[:80]!r} ({error})", "JSON", remedy) from error
    return found


def check_config_beside(path: Path, attrs: Mapping[object, object]) -> None:
    """Refuse a run.nc beside the config.json of another run, or of the same one before somebody changed it.

    Raises:
        ValueError: Naming the values that differ.
    """
    beside = path.with_name("config.json")
    if path.name != "run.nc" or "config_json" not in attrs or not beside.is_file():
        return
    with atomic.named(beside):
        there = leaves(str(beside), beside.read_bytes())
    ours = leaves(f"config_json of {path}", str(attrs["config_json"]))
    if different := [name for name in {**ours, **there} if there.get(name) != ours.get(name)]:
        values = ", ".join(f"{name} {there.get(name)!r} instead of {ours.get(name)!r}" for name in different)
        allowed = f"the config of run {attrs.get('run_id')}, of which {path} holds the results"
        remedy = "restore the file that was changed or exchanged; the one in run.nc is its attribute config_json"
        raise invalid(str(beside), values, allowed, remedy)
