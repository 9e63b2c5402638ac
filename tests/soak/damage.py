"""Damage of one file, as disks, editors and people do it."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Chance = random.Random


def _bit(content: bytes, chance: Chance) -> tuple[bytes, str]:
    at = chance.randrange(len(content))
    changed = bytearray(content)
    changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed), f"a bit of byte {at}"


def _digit(content: bytes, chance: Chance) -> tuple[bytes, str]:
    places = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return _bit(content, chance)
    at = chance.choice(places)
    digit = chance.choice([byte for byte in b"0123456789" if byte != content[at]])
    return content[:at] + bytes([digit]) + content[at + 1 :], f"the digit at byte {at}, now {chr(digit)}"


def _cut(content: bytes, chance: Chance) -> tuple[bytes, str]:
    at = chance.randrange(len(content))
    return content[:at], f"all from byte {at} on"


def _line(content: bytes, chance: Chance) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    return b"".join(lines[:at] + lines[at + 1 :]), f"line {at + 1}"


def _block(content: bytes, chance: Chance) -> tuple[bytes, str]:
    at = chance.randrange(len(content))
    rest = content[at + 512 :]
    return content[:at] + bytes(len(content) - at - len(rest)) + rest, f"zeros from byte {at} on"


CHANGES: dict[str, Callable[[bytes, Chance], tuple[bytes, str]]] = {
    "bit": _bit,
    "digit": _digit,
    "cut": _cut,
    "line": _line,
    "block": _block,
}
WAYS = (*CHANGES, "digit", "bit", "empty", "swap", "gone")


def damaged(path: Path, other: Callable[[], Path] | None, chance: Chance, way: str | None = None) -> str:
    """Damage a file in one of many ways and return what was done; nothing ever stays as it was.

    Args:
        path: The file.
        other: Gives the same file of another run, if there is one.
        chance: What decides.
        way: One of WAYS; None lets chance decide.
    """
    before, asked = path.read_bytes(), way
    while True:
        way = asked or chance.choice(WAYS)
        if way == "gone":
            path.unlink()
            return "gone"
        if way == "empty":
            after, what = b"", "emptied"
        elif way == "swap":
            if other is None or not (fellow := other()).is_file():
                continue
            shutil.copyfile(fellow, path)
            after, what = path.read_bytes(), "that of another run"
        elif not before:
            continue
        else:
            after, what = CHANGES[way](before, chance)
            what = f"{way}: {what}"
        if after != before:
            path.write_bytes(after)
            return what
