"""The data room: one protocol, and a file for each kind of data that answers it."""

from dynamics.data.digits import Digits
from dynamics.data.digits_mixture import DigitsMixture
from dynamics.data.image_files import Folder, FromFiles, Idx, Npz
from dynamics.data.imageset import ImageSet
from dynamics.data.latents import IMAGENET_IMAGES, Latents, LatentSet
from dynamics.data.mnist import Mnist5k
from dynamics.data.mnist_mixture import LowRankMixtureSet, MnistMixture
from dynamics.data.plane import Checkerboard, EightGaussians, Spiral, TwoMoons
from dynamics.data.population import GaussianMixtureSet, Population, UniformBoxesSet
from dynamics.data.source import DataOptions, DataSource
from dynamics.flow.path import Shape
from dynamics.options import import_all
from dynamics.rng import batch_indices

import_all(__name__, __path__)

__all__ = [
    "IMAGENET_IMAGES",
    "Checkerboard",
    "DataOptions",
    "DataSource",
    "Digits",
    "DigitsMixture",
    "EightGaussians",
    "Folder",
    "FromFiles",
    "GaussianMixtureSet",
    "Idx",
    "ImageSet",
    "LatentSet",
    "Latents",
    "LowRankMixtureSet",
    "Mnist5k",
    "MnistMixture",
    "Npz",
    "Population",
    "Shape",
    "Spiral",
    "TwoMoons",
    "UniformBoxesSet",
    "batch_indices",
]
