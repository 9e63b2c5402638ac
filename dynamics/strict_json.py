"""JSON that every reader takes, and that shows when it has changed.

Numbers that are not finite, for which JSON has no word, are written as {"$number": "nan"} and read back as they were.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

NUMBER = "$number"
SEAL = "checksum"
"""Key of the hash of all else in a sealed object."""

Default = Callable[[Any], Any]


def dumps(value: object, default: Default | None = None, indent: int | None = None) -> str:
    """Write JSON; `default` turns what has no JSON form into what has one.

    Example:
        >>> dumps({"loss": float("nan")})
        '{"loss": {"$number": "nan"}}'
    """
    try:
        return json.dumps(value, default=default, indent=indent, allow_nan=False)
    except ValueError:  # as a rule all numbers are finite, and nothing has to be looked at one by one
        return json.dumps(_spelled(value, default), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is none, or is nested too deep.
    """
    try:
        return json.loads(text, object_hook=_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def seal(content: Mapping[str, Any]) -> str:
    """Write an object with a hash of its content in it, for `unseal`."""
    plain = loads(dumps(content))  # keys and tuples as a reader will see them
    return dumps({**plain, SEAL: _hash(plain)}, indent=1)


def unseal(text: str | bytes) -> dict[str, Any]:
    """Read an object and compare its hash; one without a hash, of an earlier version, is taken as it is.

    Raises:
        ValueError: It is none, or another than was written.
    """
    content = loads(text)
    if not isinstance(content, dict):
        raise ValueError("no object")
    try:
        intact = SEAL not in content or content.pop(SEAL) == _hash(content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not intact:
        raise ValueError("fails its checksum")
    return content


def _hash(content: object) -> str:
    text = json.dumps(_spelled(content, None), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _spelled(value: object, default: Default | None) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else {NUMBER: str(float(value))}
    if isinstance(value, dict):
        return {key: _spelled(one, default) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(one, default) for one in value]
    if value is None or isinstance(value, str | int) or default is None:
        return value
    return _spelled(default(value), default)


def _number(content: dict[str, Any]) -> object:
    if content.keys() != {NUMBER}:
        return content
    if content[NUMBER] not in ("nan", "inf", "-inf"):
        raise ValueError(f"{NUMBER} is {content[NUMBER]!r:.40} and not nan, inf or -inf")
    return float(content[NUMBER])
