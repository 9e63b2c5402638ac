"""What a results file may consist of: nothing that reaches outside of it, goes in circles or fills the memory."""

import math
import zlib
from typing import Any

import h5py
import numpy as np

from dynamics.options import invalid

TYPES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
INFLATION = 1_100
"""By how much the file's bytes can grow when they are read; deflate reaches 1,032."""
SMALL = 2**20
"""Bytes that any file may ask for."""
CEILING = 2**33
"""Bytes that no file may ask for which is not itself a quarter as long."""
TEXT = 64
"""Bytes that a string takes in Python, at least."""
LONGEST = 2**28
"""Letters that one array of strings may hold, shorter ones counted as the longest, and all of a file's together."""
LONGEST_ATTRIBUTE = 2**16
"""Bytes of one attribute of numbers."""


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
            that lie elsewhere, a filter or type that results do not have, chunks of another size than they say, or
            arrays or attributes that such a file cannot hold.
    """
    seen, room = {file["/"]}, min(INFLATION * num_bytes + SMALL, max(CEILING, 4 * num_bytes))
    arrays: dict[str, dict[str, Any]] = {}
    described = "consolidated" in file.attrs  # then no attributes are read but the root's

    def look(name: str, item: Any) -> str | None:
        nonlocal room
        if item in seen:
            return "a second link to what has been seen"
        seen.add(item)
        if not described:
            room -= inspect_attributes(item, path, num_bytes)
            if room < 0:
                return "attributes, more than such a file can hold"
        if isinstance(item, h5py.Datatype):  # complex numbers name theirs
            return None
        if isinstance(item, h5py.Group):
            pending.append((name, item))
            return "a group in a group" if name.count("/") > 1 else None
        group, _, key = name.rpartition("/")
        arrays[group or "/"][key] = item
        made = item.id.get_create_plist()
        room -= _bytes_in_memory(item, made)
        too_much = f"an array of {item.shape}, more than a file of {num_bytes:,} bytes can hold"
        return _problem(item, made) or (too_much if room < 0 else _damaged_chunk(item, made, num_bytes))

    pending: list[tuple[str, Any]] = [("/", file)]
    while pending:
        where, group = pending.pop(0)
        arrays[where] = {}
        for key in group:
            name = f"{where.rstrip('/')}/{key}"
            if problem := _link(group, key) or look(name, group[key]):
                raise _foreign(path, f"{name}: {problem}")
    return arrays


def inspect_attributes(item: Any, path: str, num_bytes: int) -> int:
    """Look at the attributes of a file, group or array before they are read; return how long their strings are.

    Raises:
        ForeignContentError: An attribute is of a type that results do not have, or larger than theirs.
    """
    total = 0
    for name in item.attrs:
        if name == "REFERENCE_LIST":  # nobody reads it
            continue
        attribute = h5py.h5a.open(item.id, name.encode())
        kind, where = attribute.get_type(), f"{item.name}: attribute {name}"
        scales = kind.get_class() == h5py.h5t.VLEN and kind.get_super().get_class() == h5py.h5t.REFERENCE
        if not scales and kind.get_class() not in (*TYPES, h5py.h5t.ENUM):
            raise _foreign(path, f"{where} is neither numbers nor strings")
        texts = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
        if not (scales or texts):
            if attribute.get_storage_size() > LONGEST_ATTRIBUTE:
                raise _foreign(path, f"{where} of {attribute.get_storage_size():,} bytes")
        elif (count := math.prod(attribute.shape)) > texts_at_once(num_bytes):
            raise _foreign(path, f"{where} of {count} strings")
        elif texts and not isinstance(value := item.attrs[name], h5py.Empty):
            total += sum(map(len, np.ravel(value)))
            if total > LONGEST:
                raise _foreign(path, f"{where} and others of {total:,} letters")
    return total


def texts_at_once(num_bytes: int) -> int:
    """Return how many strings may be read before they are counted, as each may be as long as the file."""
    return max(64, LONGEST // num_bytes)


def _foreign(path: str, received: str) -> ForeignContentError:
    remedy = "open only files that this toolkit wrote, or restore it from a copy"
    return ForeignContentError(str(invalid(path, received, "groups of arrays in the file itself", remedy)))


def _link(group: Any, key: str) -> str | None:
    """Name a link that is none to an object of the same file."""
    kind = group.id.links.get_info(key.encode()).type
    if kind == h5py.h5l.TYPE_HARD:
        return None
    if kind == h5py.h5l.TYPE_EXTERNAL:
        return f"a link into another file, {group.id.links.get_val(key.encode())[0].decode(errors='replace')!r}"
    return "a soft link" if kind == h5py.h5l.TYPE_SOFT else "a link of an unknown kind"


def _filters(made: Any) -> list[int]:
    return [made.get_filter(index)[0] for index in range(made.get_nfilters())]


def _problem(item: Any, made: Any) -> str | None:
    """Name what an array, made with these properties, has that arrays of results have not."""
    kind = item.id.get_type().get_class()
    if item.id.shape is None or not (kind in TYPES or item.dtype.kind in "bc"):
        return f"an array of {item.dtype}, which is neither numbers nor strings"
    layout = made.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        return "a virtual data set, whose numbers lie in other files"
    if layout == h5py.h5d.CONTIGUOUS and made.get_external_count():
        return f"numbers in another file, {made.get_external(0)[0].decode(errors='replace')!r}"
    if layout not in LAYOUTS:
        return "a layout of an unknown kind"
    filters = _filters(made)
    if unknown := [number for number in filters if number not in FILTERS]:
        return f"HDF5 filters {unknown}, which are none of deflate, shuffle and fletcher32"
    return "a filter used twice" if len(set(filters)) < len(filters) else None


def _damaged_chunk(item: Any, made: Any, num_bytes: int) -> str | None:
    """Name a chunk that holds more or less than its size: HDF5 reads on behind the end of one that holds less."""
    if made.get_layout() != h5py.h5d.CHUNKED:
        return None
    filters = _filters(made)
    size = math.prod(made.get_chunk()) * item.id.get_type().get_size()
    deflated = h5py.h5z.FILTER_DEFLATE in filters
    behind = filters[filters.index(h5py.h5z.FILTER_DEFLATE) :] if deflated else []
    if h5py.h5z.FILTER_FLETCHER32 in filters and h5py.h5z.FILTER_FLETCHER32 not in behind:
        size += 4  # the checksum, which zlib passes over where it lies behind what it deflated
    stored: list[Any] = []
    item.id.chunk_iter(stored.append)
    for chunk in stored:
        wrong = f"a chunk at {chunk.chunk_offset} that does not hold {size:,} bytes"
        if chunk.filter_mask or chunk.size > num_bytes or not (deflated or chunk.size == size):
            return wrong
        if deflated:
            inflate = zlib.decompressobj()
            try:
                found = len(inflate.decompress(item.id.read_direct_chunk(chunk.chunk_offset)[1], size + 1))
            except zlib.error:
                return wrong
            if found != size or not inflate.eof:
                return wrong
    return None


def _bytes_in_memory(item: Any, made: Any) -> int:
    """Return what reading takes: all of an array, or one chunk where that is larger."""
    chunk = made.get_chunk() if made.get_layout() == h5py.h5d.CHUNKED else ()
    kind = item.id.get_type()
    # strings packed letter by letter are inflated as numbers are, and counted where they are read
    each = kind.get_size() + (TEXT if kind.get_class() == h5py.h5t.STRING and item.dtype != "S1" else 0)
    return int(max(math.prod(item.id.shape or ()), math.prod(chunk)) * each)
