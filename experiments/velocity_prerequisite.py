"""Must v be learned before u?

Studies O1a and O1b of "Understanding, Accelerating, and Improving MeanFlow Training" (2511.19065): v alone, then u
alone; with a fixed number of steps of u, and with a fixed number of steps in all. Published direction: more v first,
better u.
"""

from collections.abc import Mapping

from dynamics.analysis import Claim
from dynamics.config import RunConfig
from dynamics.evaluation import EvaluationOptions
from dynamics.flow.times import TimesOptions
from dynamics.presets import baseline
from dynamics.sweep.grid import Axes, Knob, with_values
from experiments._measuring import errors, samples

QUESTION = "Does learning v first make u better, at a fixed number of steps of u and at a fixed number in all?"
PRIMARY = "u_error_end"
"""Mean over all bins of the gap: the point (1, 0) alone hides the effect (LOG.md, the audit)."""
# steps of v alone + steps of u alone, in units of the baseline's training
PROTOCOLS = {
    "0+1": (0.0, 1.0),
    "0.25+1": (0.25, 1.0),
    "0.5+1": (0.5, 1.0),
    "1+1": (1.0, 1.0),
    "0.25+0.75": (0.25, 0.75),
    "0.5+0.5": (0.5, 0.5),
    "0.75+0.25": (0.75, 0.25),
}
SEEDS = {"digits": 6, "digits-dit": 3, "mnist5k": 3, "testbed": 5, "testbed-mlp": 5, "b4": 3, "xl2": 1}
CLAIMS = tuple(
    Claim(text, PRIMARY, {"v_then_u": arm}, "lower", {"v_then_u": "0+1"}, source="2511.19065", family=text[:3])
    for text, arm in {
        "O1a: v for as long as u, then u: better u than u alone": "1+1",
        "O1a: already v for a quarter of that": "0.25+1",
        "O1b: a quarter of the same budget for v first": "0.25+0.75",
        "O1b: half of the same budget for v first": "0.5+0.5",
    }.items()
)


def base(scale: str) -> RunConfig:
    observers = (errors(scale, every=200),)
    return with_values(baseline(scale), {"times": TimesOptions(gap_share=1.0), "observers": observers})


def axes(scale: str) -> Axes:
    steps = baseline(scale).training.num_steps
    return {
        "v_then_u": {label: {"training.num_steps": round(u * steps)} for label, (_, u) in PROTOCOLS.items()},
        "seed": {seed: {"seed": seed} for seed in range(SEEDS[scale])},
    }


def before(config: RunConfig, knobs: Mapping[str, Knob]) -> list[RunConfig]:
    """The same objective on v alone; protocols with equally much of it share the run."""
    share_v, share_u = PROTOCOLS[str(knobs["v_then_u"])]
    steps = round(config.training.num_steps / share_u * share_v)
    alone = {"times": TimesOptions(gap_share=0.0), "training.num_steps": steps}
    return [with_values(config, alone)] if steps else []


def evaluation(scale: str) -> list[EvaluationOptions]:
    return samples(scale, by_v=False)
