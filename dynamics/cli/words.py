"""Members of families as words of a command line: KIND:option=value,option=value."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_args, get_origin

import tyro
from pydantic import create_model

from dynamics.options import Family, invalid

if TYPE_CHECKING:
    from dynamics.config import RunConfig

NONE = "none"
"""The word, alone, for no member at all."""


def option_names(member: type[Family]) -> list[str]:
    """Return the names of a member's options."""
    return [name for name in member.model_fields if name != member.TAG]


def parse_members(flag: str, root: type[Family], words: Sequence[str]) -> tuple[Family, ...]:
    """Read members of a family from words KIND or KIND:option=value,option=value; the word none, alone, is no member.

    Args:
        flag: Name of the option that the words follow, for errors.
        root: The family.
        words: At least one. A value is JSON if it can be read so, else text; the parts of a tuple are separated by "/".

    Raises:
        ValueError: no word, an unknown kind or option, or a value that the option does not take.

    Example:
        >>> from dynamics.instruments import InstrumentOptions
        >>> parse_members("observe", InstrumentOptions, ["cells", "gaps:every=100,gap_edges=0.1/0.5/0.9"])[1].gap_edges
        (0.1, 0.5, 0.9)
    """
    if not words:
        raise invalid(flag, words, f"{', '.join(root.members())}, or none", "name members, or write none")
    return () if list(words) == [NONE] else tuple(_member(flag, root, word) for word in words)


def _member(flag: str, root: type[Family], word: str) -> Family:
    kind, colon, given = word.partition(":")
    if kind not in root.members():
        allowed = f"{', '.join(root.members())}, or none alone"
        raise invalid(flag, word, allowed, "write KIND:option=value,option=value")
    member = root.member(kind)
    content: dict[str, Any] = {}
    for pair in given.split(",") if colon else []:
        name, equals, text = pair.partition("=")
        if not equals or name not in option_names(member) or name in content:
            allowed = f"option=value, each option once, of {', '.join(option_names(member))}"
            raise invalid(f"{flag} {kind}", pair, allowed, f"see dynamics train --help for those of {kind}")
        parts = text.split("/") if "/" in text and _takes_several(member, name) else None
        content[name] = _value(text) if parts is None else [_value(part) for part in parts]
    # inside a model of one field, so that errors say which member has the option
    holder = create_model(kind, **{kind: (member, ...)})  # type: ignore[call-overload]
    out: Family = getattr(holder.model_validate({kind: content}), kind)
    return out


def _takes_several(member: type[Family], name: str) -> bool:
    kind = member.model_fields[name].annotation
    return tuple in (get_origin(kind), *map(get_origin, get_args(kind)))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def switches() -> dict[str, type[Family]]:
    """Return the options by which a command line chooses another member, with their families."""
    from dynamics.data import DataOptions
    from dynamics.flow.times import TimeLaw
    from dynamics.models import ModelOptions
    from dynamics.objectives import Objective

    roots: dict[str, type[Family]] = {
        "data": DataOptions,
        "model": ModelOptions,
        "objective": Objective,
        "times.law": TimeLaw,
    }
    return {f"--{place}.{root.TAG}": root for place, root in roots.items()}


def switched(config: "RunConfig", argv: Sequence[str]) -> "RunConfig":
    """Return a config with the members that the command line names in place of others, at their own defaults.

    What such a member demands and has no default for is missing in it, for the command line to give.
    """
    for flag, root in switches().items():
        for kind in _values_of(flag, argv):
            *path, place = flag.removeprefix("--").split(".")[:-1]
            owner = getattr(config, path[0]) if path else config
            if getattr(getattr(owner, place), root.TAG) == kind:
                continue
            member = root.member(kind, flag)
            required = {name: tyro.MISSING for name, field in member.model_fields.items() if field.is_required()}
            owner = owner.model_copy(update={place: member.model_construct(**required)})
            config = config.model_copy(update={path[0]: owner}) if path else owner
    return config


def _values_of(flag: str, argv: Sequence[str]) -> list[str]:
    pairs = [after for word, after in pairwise(argv) if word == flag]
    return pairs + [word.removeprefix(f"{flag}=") for word in argv if word.startswith(f"{flag}=")]


def kinds_text() -> str:
    """Return what words and switches take, for a help text."""
    from dynamics.curricula import Curriculum
    from dynamics.instruments import InstrumentOptions

    lines = []
    for flag, root in (("--observe", InstrumentOptions), ("--curriculum", Curriculum)):
        lines.append(f"{flag} takes, with its options:")
        lines += [f"  {kind}: {', '.join(option_names(member))}" for kind, member in root.members().items()]
    lines += [f"{flag} takes: {', '.join(root.members())}" for flag, root in switches().items()]
    return "\n".join(lines)
