"""The old place of `dynamics.oracles`, which is a room of its own above this one."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(import_module("dynamics.oracles"), name)
