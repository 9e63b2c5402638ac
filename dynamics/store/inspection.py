"""What a results file may consist of: nothing that reaches outside of it, goes in circles or fills the memory."""

import math
from typing import Any

import h5py

from dynamics.options import invalid

TYPES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
INFLATION = 1_100
"""By how much the file's bytes can grow when they are read; deflate reaches 1,032."""
SMALL = 2**20
"""Bytes that any file may ask for."""


class ForeignContentError(ValueError):
    """A file holds what no results hold."""


def inspected(file: Any, path: str, num_bytes: int) -> dict[str, dict[str, Any]]:
    """Look at everything in a file without reading any of it, and return what may be read.

    Args:
        file: An open `h5py.File`.
        path: What to call it.
        num_bytes: Its length.

    Returns:
        The arrays (`h5py.Dataset`) by group ("/" is the root) and name.

    Raises:
        ForeignContentError: It holds a link other than a hard one, a second link to one object, groups in groups, data
            that lie elsewhere, a filter or type that results do not have, or arrays that such a file cannot hold.
    """
    seen, room = {file["/"]}, INFLATION * num_bytes + SMALL
    arrays: dict[str, dict[str, Any]] = {}

    def look(name: str, item: Any) -> str | None:
        nonlocal room
        if item in seen:
            return "a second link to what has been seen"
        seen.add(item)
        if isinstance(item, h5py.Datatype):  # complex numbers name theirs
            return None
        if isinstance(item, h5py.Group):
            pending.append((name, item))
            return "a group in a group" if name.count("/") > 1 else None
        group, _, key = name.rpartition("/")
        arrays[group or "/"][key] = item
        room -= _bytes_in_memory(item)
        too_much = f"an array of {item.shape}, more than a file of {num_bytes:,} bytes can hold"
        return _problem(item) or (too_much if room < 0 else None)

    pending: list[tuple[str, Any]] = [("/", file)]
    while pending:
        where, group = pending.pop(0)
        arrays[where] = {}
        for key in group:
            name = f"{where.rstrip('/')}/{key}"
            if problem := _link(group, key) or look(name, group[key]):
                remedy = "open only files that this toolkit wrote, or restore it from a copy"
                allowed = "groups of arrays in the file itself"
                raise ForeignContentError(str(invalid(path, f"{name}: {problem}", allowed, remedy)))
    return arrays


def _link(group: Any, key: str) -> str | None:
    """Name a link that is none to an object of the same file."""
    kind = group.id.links.get_info(key.encode()).type
    if kind == h5py.h5l.TYPE_HARD:
        return None
    if kind == h5py.h5l.TYPE_EXTERNAL:
        return f"a link into another file, {group.id.links.get_val(key.encode())[0].decode(errors='replace')!r}"
    return "a soft link" if kind == h5py.h5l.TYPE_SOFT else "a link of an unknown kind"


def _problem(item: Any) -> str | None:
    """Name what an array has that arrays of results have not."""
    made, kind = item.id.get_create_plist(), item.id.get_type().get_class()
    if item.id.shape is None or not (kind in TYPES or item.dtype.kind in "bc"):
        return f"an array of {item.dtype}, which is neither numbers nor strings"
    layout = made.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        return "a virtual data set, whose numbers lie in other files"
    if layout == h5py.h5d.CONTIGUOUS and made.get_external_count():
        return f"numbers in another file, {made.get_external(0)[0].decode(errors='replace')!r}"
    if layout not in LAYOUTS:
        return "a layout of an unknown kind"
    filters = [made.get_filter(index)[0] for index in range(made.get_nfilters())]
    if unknown := [number for number in filters if number not in FILTERS]:
        return f"HDF5 filters {unknown}, which are none of deflate, shuffle and fletcher32"
    return None


def _bytes_in_memory(item: Any) -> int:
    """Return what reading takes: all of an array, or one chunk where that is larger."""
    made = item.id.get_create_plist()
    chunk = made.get_chunk() if made.get_layout() == h5py.h5d.CHUNKED else ()
    return int(max(math.prod(item.id.shape or ()), math.prod(chunk)) * item.id.get_type().get_size())
