"""A checksum over a whole file, behind its last byte: HDF5 and netCDF pass over what follows the end that they know.

Another program that opens the file to change it cuts the checksum off: it ends where HDF5 says. Such a file is read as
those of versions before 0.3, which have none; a longer one has a damaged checksum.
"""

import hashlib
from pathlib import Path

from dynamics import atomic
from dynamics.options import invalid

TAG = b"\nsha256 "
LENGTH = len(TAG) + 64 + 1
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def checksummed(content: bytes) -> bytes:
    """Return the content with its checksum behind it.

    Example:
        >>> checksummed(b"abc")[:20]
        b'abc\\nsha256 ba7816bf8'
    """
    return content + TAG + hashlib.sha256(content).hexdigest().encode() + b"\n"


def checked(path: Path) -> tuple[bytes, bool]:
    """Read a file at once; return its bytes and whether a checksum vouches for them.

    Raises:
        ValueError: The bytes are not those that were written.
        OSError: The file cannot be read.
    """
    with atomic.named(path):
        content = path.read_bytes()
    tagged = content[-LENGTH:].startswith(TAG)
    if not tagged and len(content) <= _end(content):
        return content, False
    if not tagged or checksummed(content[:-LENGTH]) != content:
        remedy = "restore it from a copy, or remove it: the command that made it makes it again"
        raise invalid("path", str(path), "an undamaged netCDF file, not one that fails its checksum", remedy)
    return content[:-LENGTH], True


def _end(content: bytes) -> int:
    """Return where an HDF5 file says that it ends: what lies behind is our checksum, or was."""
    if not content.startswith(SIGNATURE) or len(content) < 52:
        return len(content)
    place = {0: 40, 1: 44}.get(content[8], 28)  # by version of the superblock
    return int.from_bytes(content[place : place + 8], "little")
