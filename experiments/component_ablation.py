"""Which parts of the improved schedule help, against which controls, and does one beat the best constant law of gaps?

Components of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065) with controls that keep the
average weight and take away the order; then the same of the law of gaps.
"""

from itertools import product

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.curricula import Beta, Constant, GapLaw, MinSNR, denoising_difficulty
from dynamics.evaluation import EvaluationOptions
from dynamics.instruments import GapsOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, Changes, with_values

QUESTION = "What do alpha, DTD, beta and the law of gaps each bring, and is it their order or only their average?"
PRIMARY, FRECHET, BY_V, PAPER = "one_step_error", "fd_u_nfe1", "fd_v_nfe32", "2511.19065"
SEEDS, LAW = {"digits": 5, "digits-dit": 3, "mnist5k": 3, "b4": 1, "xl2": 1}, "50% u, 25% uniform"
_WHOLE = ("vanilla", "minsnr v + beta", "dtd + beta")
REPEATED = {"digits-dit": (*_WHOLE, "minsnr v", "dtd", "beta", "50% u, growing late to 50%"), "mnist5k": _WHOLE}
_BOTH, _DTD, _GAPS = "minsnr + beta", "dtd + beta", "ours: law of gaps"
# question, whether it is its primary claim, and the claim
_ROWS = (
    (_BOTH, True, "MinSNR + beta improve on vanilla", PRIMARY, "minsnr v + beta", "vanilla"),
    (_BOTH, False, "MinSNR + beta improve 1-NFE samples", FRECHET, "minsnr v + beta", "vanilla"),
    (_BOTH, False, "MinSNR + beta improve 32-NFE samples by v", BY_V, "minsnr v + beta", "vanilla"),
    (_BOTH, False, "MinSNR improves on vanilla", PRIMARY, "minsnr v", "vanilla"),
    (_BOTH, False, "beta improves on vanilla", PRIMARY, "beta", "vanilla"),
    (_BOTH, False, "MinSNR is more than a smaller weight of v", PRIMARY, "minsnr v", "constant alpha"),
    (_BOTH, False, "beta's motion matters (not frozen)", PRIMARY, "beta", "beta frozen"),
    (_BOTH, False, "beta's direction matters (not rising)", PRIMARY, "beta", "beta rising"),
    (_DTD, True, "DTD + beta improve on vanilla", PRIMARY, "dtd + beta", "vanilla"),
    (_DTD, False, "DTD improves on vanilla", PRIMARY, "dtd", "vanilla"),
    (_DTD, False, "DTD's order matters (not shuffled)", PRIMARY, "dtd", "dtd shuffled"),
    (_GAPS, True, "ours: a constant share of uniform gaps improves on vanilla", PRIMARY, LAW, "vanilla"),
    (_GAPS, False, "ours: the same in 1-NFE samples", FRECHET, LAW, "vanilla"),
    (_GAPS, False, "ours: a growing share beats the constant one", PRIMARY, "50% u, growing late to 50%", LAW),
    (_GAPS, False, "ours: growing beats shrinking", PRIMARY, "50% u, growing to 50%", "50% u, shrinking from 50%"),
)
_SEEN = {"MinSNR makes v worse": "minsnr v", "the same at equal total weight": "minsnr v, normalised"}
CLAIMS = tuple(
    Claim(t, m, {"arm": a}, "lower", {"arm": b}, source=PAPER * (f != _GAPS and b == "vanilla"), family=f, primary=p)
    for f, p, t, m, a, b in _ROWS
) + tuple(Claim(t, "v_error_end", {"arm": a}, "higher", {"arm": "vanilla"}, post_hoc=True) for t, a in _SEEN.items())


def base(scale: str) -> RunConfig:
    config = baseline(scale)
    return with_values(config, {"observers": (GapsOptions(every=config.training.num_steps // 8, rows_per_bin=128),)})


def weights(steps: int) -> dict[str, Changes]:
    dtd, shuffled, clean = (denoising_difficulty(steps, o) for o in ("noisy_first", "shuffled", "clean_first"))
    chains = {
        **{f"minsnr {form}": (MinSNR(form=form),) for form in ("x0", "v", "eps")},
        **{f"minsnr {form}, normalised": (MinSNR(form=form, normalise=True),) for form in ("x0", "v", "eps")},
        **{"minsnr v + beta": (MinSNR(), Beta()), "dtd + beta": (dtd, Beta()), "dtd": (dtd,), "beta": (Beta(),)},
        **{"constant alpha": (Constant(v=0.399),), "dtd shuffled": (shuffled,), "dtd clean first": (clean,)},
        **{"beta frozen": (Beta(path="frozen"),), "beta rising": (Beta(path="rising"),)},
    }
    return {name: {"curricula": chain} for name, chain in chains.items()}


def gap_laws(share: float) -> dict[str, Changes]:
    laws = {f"{u:.0%} uniform": GapLaw(share_from=u, share_to=u) for u in (0.0, 0.12, 0.25, 0.5)}
    for (name, start), u in product((("growing", 0.0), ("growing late", 0.5)), (0.25, 0.5, 1.0)):
        laws[f"{name} to {u:.0%}"] = GapLaw(share_to=u, start=start, end=1.0)
    laws["shrinking from 50%"] = GapLaw(share_from=0.5, share_to=0.0, start=0.0)
    return {f"{share:.0%} u, {name}": {"times.gap_share": share, "curricula": (law,)} for name, law in laws.items()}


def axes(scale: str) -> Axes:
    arms = {"vanilla": {}, **weights(baseline(scale).training.num_steps), **gap_laws(0.25), **gap_laws(0.5)}
    arms = {name: arms[name] for name in (*REPEATED[scale], LAW)} if scale in REPEATED else arms
    return {"arm": arms, "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])}}


def evaluation(scale: str) -> list[EvaluationOptions]:
    return [EvaluationOptions(nfe=(1, 2)), EvaluationOptions(nfe=(32,), field="v")]
