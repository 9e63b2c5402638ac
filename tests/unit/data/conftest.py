"""Images, and a tiny autoencoder of the real class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from encoding import CLASSES, NUM_IMAGES
from PIL import Image

from dynamics.data.vae import Vae, load_vae
from experiments._rehearsal import autoencoder


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-vae"
    autoencoder(folder, levels=3)  # 4 times fewer pixels a side
    return folder


@pytest.fixture(scope="module")
def vae(vae_folder: Path) -> Vae:
    return load_vae(vae_folder, torch.device("cpu"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    for i in range(NUM_IMAGES):
        path = folder / CLASSES[i >= 4] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = (20, 37) if i % 2 else (50, 18)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return folder
