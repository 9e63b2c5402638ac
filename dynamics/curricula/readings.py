"""The schedules of 2511.19065 as they are read here: whatever the paper leaves open is named, nothing is a default."""

from typing import Literal

from dynamics.curricula.beta import Beta
from dynamics.curricula.dtd import DTD
from dynamics.curricula.min_snr import MinSNR

MIN_SNR = MinSNR(form="v", gamma=5.0, normalise=False)
"""alpha(t). Published is the name MinSNR; that of v-prediction, raw and with the gamma of 2303.09556, is inferred."""
BETA = Beta(k=1.0, path="falling")
"""beta(dt, s) with the best published exponent."""
PUBLISHED_END = 10_000
"""Step by which all clusters have joined with the published patience, about: a stage lasts some 2.5 times as long."""
LATEST = 0.05
"""Share of training at which all clusters have joined at the latest; published is below 1%."""
USUAL = 0.02
"""That share where the published patience would last longer."""


def denoising_difficulty(
    num_steps: int, order: Literal["noisy_first", "clean_first", "shuffled"] = "noisy_first"
) -> DTD:
    """Return DTD for a training of so many steps.

    On the mixture of digits, 800 steps, all clusters have joined after 19 steps (2.4%) so, after 73 with a patience of
    1 and after 450 with one of 10.

    Published are 20 clusters and a patience of 200 in trainings of a million steps, where DTD is a short prelude. In a
    short training that patience would last for most of it, and one of single steps hears only noise: stages of one
    length, 2% of training in all but never less than a step each, keep it a prelude from 380 steps on. Clusters, law
    and scope are inferred.

    Example:
        >>> denoising_difficulty(1_200_000).pacing, denoising_difficulty(800).stage_steps
        ('adaptive', 1)
    """
    num_clusters, long = 20, num_steps * LATEST >= PUBLISHED_END
    return DTD(
        num_clusters=num_clusters,
        clusters="uniform",
        law="truncated",
        scope="v",
        pacing="adaptive" if long else "fixed",
        patience=200,
        stage_steps=350 if long else max(round(USUAL * num_steps / (num_clusters - 1)), 1),
        order=order,
        order_seed=0,
    )
