"""What papers report, as data with sources; nothing here is measured."""

import pandas as pd

MF, UAI, AF, SEEDS = (
    ("Mean Flows", "2505.13447"),
    ("Understanding, Accelerating, and Improving MeanFlow Training", "2511.19065"),
    ("AlphaFlow", "2510.20771"),
    ("Retraining noise of FID", "2606.20536"),
)
FID1, FID2, FID32 = "FID, 1 evaluation of u", "FID, 2 evaluations of u", "FID, 32 evaluations of v = u(z, t, t)"
PARAMETERS, GFLOPS = "million parameters", "GFLOPs of a forward pass"
STEPS = "steps of vanilla / steps"
PUBLISHED_COLUMNS = [
    *("paper", "arxiv", "setting", "arm", "against", "measured_in", "value", "reference", "direction"),
    *("experiment", "claim", "our_arm", "our_against"),
]

# DiT, parameters in millions, GFLOPs of a forward pass, FID of 1 and of 2 evaluations after 240 epochs
SIZES = (
    ("B/4", 131.17, 5.6, 11.35, 7.85),
    ("B/2", 131.09, 23.1, 6.17, None),
    ("M/2", 308.02, 54.0, 5.01, None),
    ("L/2", 459.14, 80.9, 3.84, 3.35),
    ("XL/2", 676.44, 119.0, 3.43, 2.93),
)
# arm, FID of 1 and of 2 evaluations, our arm; DiT-B/4, vanilla first
COMPONENTS = (
    ("vanilla", 11.58, 7.85, "vanilla"),
    ("MinSNR", 10.57, 7.38, "minsnr v"),
    ("DTD", 10.96, 7.55, "dtd"),
    ("beta", 10.98, 7.58, "beta"),
    ("MinSNR + beta", 9.87, 7.08, "minsnr v + beta"),
    ("DTD + beta", 10.20, 7.31, "dtd + beta"),
)
LARGER = (("L/2", FID1, 3.84, 3.47), ("L/2", FID2, 3.35, 3.24), ("XL/2", FID1, 3.43, 2.87), ("XL/2", FID2, 2.93, 2.64))
FEWER = (("XL/2", 2.5), ("L/2", 2.3), ("M/2", 2.1))
# one row of section 3 each: study, which side is better, start of our claims, experiment
DIRECTIONS: tuple[tuple[str, str, str, str, str], ...] = (
    ("v-only for 0 to 20 epochs, then u-only for 60", "more v first, better u", FID1, "O1a", "velocity_prerequisite"),
    ("v-only, then u-only, 80 epochs in all", "v first pays at an equal budget", FID1, "O1b", "velocity_prerequisite"),
    ("noise of scale k||v|| on the target of v", "even k = 0.03 degrades u", FID1, "O1c", "velocity_corruption"),
    (
        "u-only over one bin of gaps, from random weights or from v",
        "small gaps build and refine v, large gaps fail or destroy it",
        FID32,
        "O2",
        "gap_ablation",
    ),
    (
        "affinity of the losses of v and u by gap and start",
        "learning v or small gaps first raises it; small gaps are best for large gaps",
        "TAS",
        "O3",
        "task_affinity",
    ),
)
NEIGHBOURS = (
    ("iMF, tangent only", "2512.02012", 2.99),
    ("SoFlow", "", 2.96),
    ("AlphaFlow", "2510.20771", 2.95),
    ("TEMF", "", 2.81),
    ("AlphaFlow, XL/2+", "2510.20771", 2.58),
    ("iMF-XL, other backbone", "2512.02012", 1.72),
)


def published() -> pd.DataFrame:
    """Return what the papers report.

    Returns:
        A row a number or direction: paper, arxiv, setting, arm, against (the arm it is compared with, "" if it stands
        alone), measured_in, value and reference (the other arm's; NaN if not printed), direction in words; and what of
        ours stands beside it: experiment, claim (start of its claims' texts), our_arm and our_against (labels of the
        experiment's axis), all "" if there is nothing.

    Example:
        >>> table = published()
        >>> row = table[(table.arm == "MinSNR + beta") & (table.measured_in == FID1)].iloc[0]
        >>> float(row.value), float(row.reference), row.arxiv
        (9.87, 11.58, '2511.19065')
    """
    rows = [*_sizes(), *_components(), *_schedule(), *_directions(), *_neighbours()]
    table = pd.DataFrame(rows, columns=PUBLISHED_COLUMNS)
    texts = [name for name in PUBLISHED_COLUMNS if name not in ("value", "reference")]
    return table.astype(dict.fromkeys(("value", "reference"), float)).fillna(dict.fromkeys(texts, ""))


def _row(paper: tuple[str, str], setting: str, arm: str, measured_in: str, **more: object) -> dict[str, object]:
    return {"paper": paper[0], "arxiv": paper[1], "setting": setting, "arm": arm, "measured_in": measured_in, **more}


def _sizes() -> list[dict[str, object]]:
    out = []
    for size, parameters, gflops, *fids in SIZES:
        out.append(_row(MF, f"DiT-{size}", size, PARAMETERS, value=parameters))
        out.append(_row(MF, f"DiT-{size}", size, GFLOPS, value=gflops))
        for measured_in, value in zip((FID1, FID2), fids, strict=True):
            if value is not None:
                out.append(_row(MF, f"DiT-{size}, ImageNet-256, 240 epochs", "vanilla", measured_in, value=value))
    out.append(_row(MF, "DiT-XL/2, ImageNet-256, 1000 epochs", "vanilla", FID2, value=2.20))
    out.append(_row(MF, "CIFAR-10, unconditional", "vanilla", FID1, value=2.92))
    return out


def _components() -> list[dict[str, object]]:
    setting, name = "DiT-B/4, ImageNet-256, 240 epochs", "component_ablation"
    vanilla = COMPONENTS[0]
    out = []
    for arm, one, two, ours in COMPONENTS:
        for measured_in, value, reference in ((FID1, one, vanilla[1]), (FID2, two, vanilla[2])):
            pair = {"against": "vanilla", "reference": reference, "direction": "lower", "our_against": "vanilla"}
            more = {} if arm == "vanilla" else pair
            out.append(_row(UAI, setting, arm, measured_in, value=value, experiment=name, our_arm=ours, **more))
    return out


def _schedule() -> list[dict[str, object]]:
    better = {"against": "vanilla", "direction": "lower"}
    improved, exponents = "improved schedule", "DiT-B/4, ImageNet-256, DTD + beta"
    out = [
        _row(UAI, f"DiT-{size}, ImageNet-256", improved, measured_in, value=value, reference=reference, **better)
        for size, measured_in, reference, value in LARGER
    ]
    for other, reference in ((0.5, 11.16), (2.0, 11.44)):
        pair = {"our_arm": "dtd, k=1", "our_against": f"dtd, k={other:g}", "experiment": "schedule_exponent"}
        more = {"against": f"k = {other:g}", "reference": reference, "direction": "lower", **pair}
        out.append(_row(UAI, exponents, "k = 1", FID1, value=10.20, **more))
    ours = {"experiment": "component_ablation", "our_arm": "minsnr v + beta", "our_against": "vanilla"}
    out.append(_row(UAI, "ImageNet-256", improved, FID32, value=7.09, reference=7.61, **better, **ours))
    for size, times in FEWER:
        text = {"against": "vanilla", "direction": f"{times:g} times fewer steps", "experiment": "convergence"}
        claim = "MinSNR + beta reach vanilla's final 1-NFE samples"
        setting = f"DiT-{size}, ImageNet-256, to vanilla's FID at 240 epochs"
        out.append(_row(UAI, setting, improved, STEPS, value=times, claim=claim, **text))
    return out


def _directions() -> list[dict[str, object]]:
    out = [
        _row(UAI, "DiT-B/4, ImageNet-256", arm, measured_in, direction=text, claim=claim, experiment=experiment)
        for arm, text, measured_in, claim, experiment in DIRECTIONS
    ]
    text = {"direction": "below -0.4 for more than 95% of training", "claim": "aF", "experiment": "loss_decomposition"}
    out.append(_row(AF, "ImageNet-256", "flow matching and consistency", "cosine of gradients", value=-0.4, **text))
    return out


def _neighbours() -> list[dict[str, object]]:
    setting = "DiT-XL/2, ImageNet-256"
    out = [_row((arm, arxiv), setting, arm, FID1, value=value) for arm, arxiv, value in NEIGHBOURS]
    out.append(_row(SEEDS, "ImageNet-256", "the same training again", "coefficient of variation of FID", value=0.013))
    return out
