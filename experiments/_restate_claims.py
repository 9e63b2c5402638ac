"""Write the claims as the experiments state them now into collected files, whose runs need not be there.

    python -m experiments._restate_claims results/*/digits*.nc results/*/mnist5k.nc

For families, sources and margins that are named afterwards; what is compared must stay, or `findings` would judge runs
by claims that they were not made for. The numbers are left as they are, byte for byte.
"""

import io
import json
import sys
from pathlib import Path

import h5py

from dynamics.analysis import CLAIMS
from dynamics.atomic import replacing
from dynamics.options import invalid
from dynamics.sweep.grid import experiment

COMPARED = (
    "text",
    "metric",
    "arm",
    "expected",
    "against",
    "relative_to",
    "than",
    "post_hoc",
    "kind",
    "along",
    "at",
    "by",
)


def compared(claims: str) -> list[dict[str, object]]:
    """Return what claims in JSON compare, in an order of their own."""
    found = [{key: claim.get(key) for key in COMPARED} for claim in json.loads(claims)]
    return sorted(found, key=json.dumps)


def restate(path: Path) -> None:
    """Replace the claims of one file."""
    content = io.BytesIO(path.read_bytes())
    with h5py.File(content, "r+") as file:
        claims = CLAIMS.dump_json(experiment("experiments", file.attrs["experiment"]).claims).decode()
        if compared(claims) != compared(file.attrs["claims"]):
            raise invalid("claims", str(path), "claims that compare the same", "run the experiment again")
        file.attrs["claims"] = claims
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        restate(Path(name))
