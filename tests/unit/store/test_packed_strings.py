"""What is packed small is not taken for a bomb."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from dynamics.store import netcdf
from dynamics.store.inspection import inspected
from dynamics.store.run_file import write_run


@pytest.mark.parametrize("way", ["short", "long"])
def test_packed_strings_that_deflate_well_can_be_read_again(tmp_path: Path, way: str) -> None:
    path = tmp_path / "run.nc"
    texts = np.array(["the same thirty letters again"] * 70_000)
    write_run(path, {"training": xr.Dataset(coords={"text": ("row", texts)})}, {"slim": 1})
    if way == "long":
        with h5py.File(path, "a") as file:
            del file.attrs[netcdf.CONSOLIDATED]
    with h5py.File(path) as file:
        found = netcdf.read(file, inspected(file, str(path), path.stat().st_size))["/training"].text
    np.testing.assert_array_equal(found, texts)
