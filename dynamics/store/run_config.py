"""The configuration that a run's file holds, and the one beside it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynamics import atomic
from dynamics.options import invalid


def leaves(name: str, config_json: str) -> dict[str, Any]:
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

    config = _parsed(name, config_json)
    walk("", config if isinstance(config, dict) else {"config": config})
    return found


def check_config_beside(path: Path, attrs: Mapping[object, object]) -> None:
    """Refuse a run.nc beside the config.json of another run, or of the same one before somebody changed it.

    Values that only one of them has are not compared: what is left out is at its default. Whoever goes on with the run
    compares its run_id.

    Raises:
        ValueError: Naming the values that differ.
    """
    beside = path.with_name("config.json")
    if path.name != "run.nc" or "config_json" not in attrs or not beside.is_file():
        return
    with atomic.named(beside):
        there = _parsed(str(beside), beside.read_bytes())
    ours = _parsed(f"config_json of {path}", str(attrs["config_json"]))
    if different := list(_differing("", ours, there)):
        allowed = f"the config of run {attrs.get('run_id')}, of which {path} holds the results"
        remedy = "restore the file that was changed or exchanged; the one in run.nc is its attribute config_json"
        raise invalid(str(beside), ", ".join(different), allowed, remedy)


def _parsed(name: str, config_json: str | bytes) -> Any:
    try:
        return json.loads(config_json or "{}")
    except (ValueError, RecursionError) as error:
        remedy = "restore the file or run it again"
        raise invalid(name, f"{config_json[:80]!r} ({error})", "JSON", remedy) from error


def _differing(name: str, ours: Any, there: Any) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(there, dict):
        for key in [key for key in ours if key in there]:
            yield from _differing(f"{name}.{key}".lstrip("."), ours[key], there[key])
    elif isinstance(ours, list) and isinstance(there, list) and len(ours) == len(there):
        for index, pair in enumerate(zip(ours, there, strict=True)):
            yield from _differing(f"{name}.{index}", *pair)
    elif ours != there:
        yield f"{name} {there!r} instead of {ours!r}"
