"""Observers as words of a command line."""

import json
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import TypeAdapter

from dynamics.instruments import AnyOptions, ObserverOptions
from dynamics.options import invalid

KINDS: dict[str, type[AnyOptions]] = {
    options.model_fields["kind"].default: options for options in get_args(get_args(ObserverOptions)[0])
}
"""Every kind of observer with its options."""


def option_names(kind: str) -> list[str]:
    """Return the names of a kind's options."""
    return [name for name in KINDS[kind].model_fields if name != "kind"]


def parse_observers(words: Sequence[str]) -> tuple[ObserverOptions, ...]:
    """Read observers from words KIND or KIND:option=value,option=value; the word none, alone, is no observer at all.

    Args:
        words: At least one. A value is JSON if it can be read so, else text; parts of a tuple are separated by "/".

    Raises:
        ValueError: no word, an unknown kind or option, or a value that the option does not take.

    Example:
        >>> parse_observers(["cells", "gaps:every=100,gap_edges=0.1/0.5/0.9"])[1].gap_edges
        (0.1, 0.5, 0.9)
    """
    if not words:
        raise invalid("observe", words, f"{', '.join(KINDS)}, or none", "name what to measure, or write none")
    return () if list(words) == ["none"] else tuple(_observer(word) for word in words)


def _observer(word: str) -> ObserverOptions:
    kind, colon, given = word.partition(":")
    if kind not in KINDS:
        raise invalid("observe", word, f"{', '.join(KINDS)}, or none alone", "write KIND:option=value,option=value")
    content: dict[str, Any] = {"kind": kind}
    for pair in given.split(",") if colon else []:
        name, equals, text = pair.partition("=")
        if not equals or name not in option_names(kind) or name in content:
            allowed = f"option=value, each option once, of {', '.join(option_names(kind))}"
            raise invalid(f"observe {kind}", pair, allowed, f"for example {kind}:every=100")
        content[name] = [_value(part) for part in text.split("/")] if "/" in text else _value(text)
    adapter: TypeAdapter[ObserverOptions] = TypeAdapter(ObserverOptions)
    return adapter.validate_python(content)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
