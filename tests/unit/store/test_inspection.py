"""Files of strangers: what reaches outside of a file, goes in circles or fills the memory is refused by name."""

import io
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from dynamics.store import open_results, update_run, write_run
from dynamics.store.checksum import checksummed

ATTRS = {"units": "1", "long_name": "x"}
SECRET = b"what is none of your business\n" * 8


def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("gaps/foreign", (len(SECRET),), "u1", external=[(secret, 0, len(SECRET))])


def external_storage_in_the_root(file: h5py.File, secret: Path) -> None:
    file.create_dataset("foreign", (len(SECRET),), "u1", external=[(secret, 0, len(SECRET))])


def virtual_data_set(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(secret, "gaps/a", (3,))
    file.create_virtual_dataset("gaps/foreign", layout)


def external_link(file: h5py.File, secret: Path) -> None:
    file["gaps/foreign"] = h5py.ExternalLink(secret, "gaps/a")


def external_link_as_a_group(file: h5py.File, secret: Path) -> None:
    file["foreign"] = h5py.ExternalLink(secret, "gaps")


def soft_link(file: h5py.File, secret: Path) -> None:
    file["gaps/foreign"] = h5py.SoftLink("/gaps/foreign")


def group_in_itself(file: h5py.File, secret: Path) -> None:
    file["gaps/foreign"] = file["gaps"]


def root_in_itself(file: h5py.File, secret: Path) -> None:
    file["foreign"] = file["/"]


def group_twice(file: h5py.File, secret: Path) -> None:
    file["foreign"] = file["gaps"]


def array_twice(file: h5py.File, secret: Path) -> None:
    file["gaps/foreign"] = file["gaps/a"]


def groups_in_groups(file: h5py.File, secret: Path) -> None:
    file.create_group("gaps/foreign")


def unknown_filter(file: h5py.File, secret: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((10,))
    made.set_filter(h5py.h5z.FILTER_LZF)
    space = h5py.h5s.create_simple((10,))
    h5py.h5d.create(file["gaps"].id, b"foreign", h5py.h5t.NATIVE_DOUBLE, space, made)


def never_written(file: h5py.File, secret: Path) -> None:
    file.create_dataset("gaps/foreign", (2**40,), "f8", chunks=(2**10,))


def large_chunk(file: h5py.File, secret: Path) -> None:
    file.create_dataset("gaps/foreign", (1,), "f8", maxshape=(None,), chunks=(2**28,))


def many_large_arrays(file: h5py.File, secret: Path) -> None:
    for index in range(200):
        file.create_dataset(f"gaps/foreign{index:03d}", (2**20,), "u1", chunks=(2**20,))


def references(file: h5py.File, secret: Path) -> None:
    file.create_dataset("gaps/foreign", data=[file["gaps"].ref], dtype=h5py.ref_dtype)


def region_references(file: h5py.File, secret: Path) -> None:
    file.create_dataset("gaps/foreign", data=[file["gaps/a"].regionref[:]], dtype=h5py.regionref_dtype)


def lists(file: h5py.File, secret: Path) -> None:
    file.create_dataset("gaps/foreign", (2,), h5py.vlen_dtype(np.int32))


def nothing(file: h5py.File, secret: Path) -> None:
    file["gaps/foreign"] = h5py.Empty("f8")


def chunk_of(file: h5py.File, raw: bytes, size: int = 100_000, deflate: int = 1, mask: int = 0) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((size,))
    for _ in range(deflate):
        made.set_deflate(9)
    space = h5py.h5s.create_simple((size,))
    h5py.h5d.create(file["gaps"].id, b"foreign", h5py.h5t.NATIVE_UINT8, space, made).write_direct_chunk((0,), raw, mask)


def short_chunk(file: h5py.File, secret: Path) -> None:
    chunk_of(file, zlib.compress(b"abc"))


def long_chunk(file: h5py.File, secret: Path) -> None:
    chunk_of(file, zlib.compress(bytes(10**6)))


def cut_chunk(file: h5py.File, secret: Path) -> None:
    chunk_of(file, zlib.compress(bytes(100_000))[:-2])


def short_chunk_as_it_is(file: h5py.File, secret: Path) -> None:
    chunk_of(file, b"abc", deflate=0)


def masked_chunk(file: h5py.File, secret: Path) -> None:
    chunk_of(file, b"abc", mask=1)


def deflated_twice(file: h5py.File, secret: Path) -> None:
    chunk_of(file, zlib.compress(zlib.compress(bytes(100_000))), deflate=2)


def many_short_strings(file: h5py.File, secret: Path) -> None:
    file.create_dataset("gaps/foreign", (3 * 10**6,), "S2", chunks=(10**6,), fillvalue=np.bytes_(b"ab"))


HOSTILE: dict[Callable[[h5py.File, Path], None], str] = {
    external_storage: "numbers in another file, .*secret",
    external_storage_in_the_root: "numbers in another file, .*secret",
    virtual_data_set: "virtual data set",
    external_link: "link into another file, .*secret",
    external_link_as_a_group: "link into another file, .*secret",
    soft_link: "a soft link",
    group_in_itself: "second link",
    root_in_itself: "second link",
    group_twice: "second link",
    array_twice: "second link",
    groups_in_groups: "a group in a group",
    unknown_filter: r"HDF5 filters \[32000\]",
    never_written: "more than a file of .* bytes can hold",
    large_chunk: "more than a file of .* bytes can hold",
    many_large_arrays: "more than a file of .* bytes can hold",
    references: "neither numbers nor strings",
    region_references: "neither numbers nor strings",
    lists: "neither numbers nor strings",
    short_chunk: "does not hold 100,000 bytes",
    long_chunk: "does not hold 100,000 bytes",
    cut_chunk: "does not hold 100,000 bytes",
    short_chunk_as_it_is: "does not hold 100,000 bytes",
    masked_chunk: "does not hold 100,000 bytes",
    deflated_twice: "a filter used twice",
    many_short_strings: "more than a file of .* bytes can hold",
    nothing: "neither numbers nor strings",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    dataset = xr.Dataset({"a": xr.Variable("x", [1.0, 2.0, 3.0], ATTRS)})
    write_run(tmp_path / "secret.nc", {"gaps": dataset}, {"run_id": "secret"})
    (tmp_path / "secret").write_bytes(SECRET)
    write_run(tmp_path / "run.nc", {"gaps": dataset}, {"run_id": "a"})
    return tmp_path / "run.nc"


@pytest.mark.parametrize("vouched", [False, True])
@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_what_no_results_hold_is_refused_by_name(
    path: Path, attack: Callable[[h5py.File, Path], None], vouched: bool
) -> None:
    """Whoever writes a file can write a checksum, too; and it is no damage."""
    secret = path.with_name("secret.nc" if "link" in attack.__name__ or "virtual" in attack.__name__ else "secret")
    with h5py.File(path, "r+") as file:
        attack(file, secret)
    if vouched:
        path.write_bytes(checksummed(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"run.nc: received .*foreign.*{HOSTILE[attack]}.*remedy") as refusal:
        open_results(path)
    assert "damage" not in str(refusal.value)
    with pytest.raises(ValueError, match=HOSTILE[attack]):
        update_run(path, "more", xr.Dataset())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "consolidated",
    [
        '{"/gaps": [{"a": [["x"], "U100000000", {}]}, [], {}]}',
        '{"/gaps": [{"a": [["x"], "<c16", {}]}, [], {}]}',
        "[" * 100_000,
        "{",
    ],
)
def test_a_description_that_lies_is_refused(path: Path, consolidated: str) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["consolidated"]
        file.create_group("gone")
        del file["gone"]
        file.attrs["consolidated"] = consolidated[:60_000]
    with pytest.raises(ValueError, match=r"run\.nc.*undamaged"):
        open_results(path)


def test_long_strings_among_many_are_refused(path: Path) -> None:
    """Numpy would give each of them the room of the longest: 120 GB of a file of one megabyte."""
    with h5py.File(path, "r+") as file:
        file.create_dataset("gaps/foreign", data=["x" * 10**6, *["y"] * 30_000], dtype=h5py.string_dtype())
        del file.attrs["consolidated"]
    with pytest.raises(ValueError, match=r"run\.nc.*30001 strings of up to 1000000 letters"):
        open_results(path)


LENGTH = 2_000_001
"""Of a string that can be found by the length beside each reference to it."""


def repeated(path: Path, times: int) -> None:
    """Let all strings of a list refer to the first, a long one."""
    content = path.read_bytes()
    start = content.index(struct.pack("<I", LENGTH))
    path.write_bytes(content[:start] + content[start : start + 16] * times + content[start + 16 * times :])


@pytest.mark.parametrize("shape", [(400,), (1, 400), (4, 100)])
def test_one_long_string_many_times_is_refused_before_all_are_read(path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["consolidated"]
        texts = np.array(["x" * LENGTH, *["y"] * 399], object).reshape(shape)
        file.create_dataset("gaps/foreign", data=texts, dtype=h5py.string_dtype())
    repeated(path, 400)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"run\.nc.*400 strings of up to {LENGTH} letters"):
        open_results(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 700_000, "of 1.6 GB"


def test_large_attributes_are_refused_before_they_are_read(path: Path) -> None:
    whole = path.read_bytes()
    for place in ("/", "gaps", "gaps/a"):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            del file.attrs["consolidated"]
            file[place].attrs.create("foreign", ["x" * LENGTH, *["y"] * 399], dtype=h5py.string_dtype())
        with pytest.raises(ValueError, match=r"run\.nc.*attribute foreign of 400 strings"):
            open_results(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+", libver="latest") as file:
        file.create_group("large", track_order=True).attrs.create("foreign", np.zeros(10_000))
        del file.attrs["consolidated"]
    with pytest.raises(ValueError, match=r"run\.nc.*attribute foreign of 80,000 bytes"):
        open_results(path)


def test_no_permission_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(5, os.strerror(5)) if self.name == "run.nc" else AssertionError

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(OSError, match=r"Input/output error: '.*run\.nc'"):
        open_results(path)


def test_a_vouched_file_that_cannot_be_read_is_not_called_damaged(path: Path) -> None:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs["schema_version"] = 1
        file.attrs["consolidated"] = '{"/gaps": [{"a": [["x"], "<f8", {}]}, [], {}]}'
    path.write_bytes(checksummed(memory.getvalue()))
    with pytest.raises(ValueError, match=r"run\.nc.*arrays as this toolkit writes them.*KeyError") as refusal:
        open_results(path)
    assert "damage" not in str(refusal.value)


def test_a_damaged_checksum_is_not_taken_for_none(path: Path) -> None:
    content = path.read_bytes()
    for damaged in (content[:-70] + b"x" + content[-69:], content[:-1], content[:-40], content + b"\n"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run\.nc.*undamaged"):
            open_results(path)
