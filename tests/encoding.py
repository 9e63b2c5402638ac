"""What tests of encoding share."""

from pathlib import Path
from typing import Any

from dynamics.data.encode import EncodeOptions

SIDE, CLASSES = 16, ("ant", "bee")
NUM_IMAGES = 9


def options(vae_folder: Path, **changes: Any) -> EncodeOptions:
    fields = {"vae": str(vae_folder), "image_size": SIDE, "batch_size": 2, "images_per_file": 3}
    return EncodeOptions(**(fields | changes))


def made(out: Path) -> dict[str, bytes]:
    """Everything in a folder of latents but hidden files."""
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
