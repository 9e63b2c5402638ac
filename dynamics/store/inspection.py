"""What a results file may consist of: nothing that reaches outside of it, goes in circles or fills the memory."""

import math
from typing import Any

import h5py

from dynamics.options import invalid

LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
INFLATION = 1_100
"""By how much the file's bytes can grow when they are read; deflate reaches 1,032."""
SMALL = 2**20
"""Bytes that any file may ask for."""


class ForeignContentError(ValueError):
    """A file holds what no results hold."""


def refuse_foreign(file: Any, path: str, num_bytes: int) -> None:
    """Look at everything in a file, without reading any of it.

    Args:
        file: An open `h5py.File`.
        path: What to call it.
        num_bytes: Its length.

    Raises:
        ForeignContentError: It holds a link other than a hard one, a second link to one object, groups in groups, data
            that lie elsewhere, a filter or type that results do not have, or arrays that such a file cannot hold.
    """

    def refuse(name: str, what: str) -> ForeignContentError:
        remedy = "open only files that this toolkit wrote, or restore it from a copy"
        return ForeignContentError(str(invalid(path, f"{name}: {what}", "groups of arrays in the file itself", remedy)))

    seen, room = {file["/"]}, INFLATION * num_bytes + SMALL
    pending: list[tuple[str, Any]] = [("", file)]
    while pending:
        where, group = pending.pop()
        for key in group:
            name = f"{where}/{key}"
            if link := _link(group, key):
                raise refuse(name, link)
            item = group[key]
            if item in seen:
                raise refuse(name, "a second link to what has been seen")
            seen.add(item)
            if isinstance(item, h5py.Group) and not where:
                pending.append((name, item))
                continue
            if isinstance(item, h5py.Datatype):  # complex numbers name theirs
                continue
            if problem := _problem(item):
                raise refuse(name, problem)
            room -= _bytes_in_memory(item)
            if room < 0:
                raise refuse(name, f"an array of {item.shape}, more than a file of {num_bytes:,} bytes can hold")


def _link(group: Any, key: str) -> str | None:
    """Name a link that is none to an object of the same file."""
    try:
        link = group.get(key, getlink=True)
    except TypeError:
        return "a link of an unknown kind"
    if isinstance(link, h5py.ExternalLink):
        return f"a link into another file, {link.filename!r}"
    return None if isinstance(link, h5py.HardLink) else f"a soft link, to {link.path!r}"


def _problem(item: Any) -> str | None:
    """Name what an array, or what lies in its place, has that arrays of results have not."""
    if not isinstance(item, h5py.Dataset):
        return f"a {type(item).__name__.lower()} where an array belongs"
    made = item.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL:
        return "a virtual data set, whose numbers lie in other files"
    if made.get_external_count():
        return f"numbers in another file, {made.get_external(0)[0].decode(errors='replace')!r}"
    if made.get_layout() not in LAYOUTS:
        return "a layout of an unknown kind"
    filters = [made.get_filter(index)[0] for index in range(made.get_nfilters())]
    if unknown := [number for number in filters if number not in FILTERS]:
        return f"HDF5 filters {unknown}, which are none of deflate, shuffle and fletcher32"
    texts = item.dtype.kind == "O" and h5py.check_string_dtype(item.dtype) is not None
    if item.shape is None or not (texts or item.dtype.kind in "biufcS"):
        return f"an array of {item.dtype}, which is neither numbers nor strings"
    return None


def _bytes_in_memory(item: Any) -> int:
    """Return what reading takes: all of an array, or one chunk where that is larger."""
    return int(max(math.prod(item.shape), math.prod(item.chunks or ())) * item.dtype.itemsize)
