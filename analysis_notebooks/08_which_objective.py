# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which objective?
#
# MeanFlow and eight others on one law of data, judged by exact errors at equal compute: forward passes a row are
# counted, a pass with gradient as three. Each has its own laws of times, weights and teacher, and a learning rate found
# with the same effort (`objectives_tuning`). The late shift moves rows from v to large gaps in the last quarter.

# %%
from pathlib import Path

from IPython.display import HTML, Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")
tree = open_results(RESULTS / "objectives" / "digits.nc")
table = analysis.study(tree, analysis.axes_of(tree))
alone = [arm for arm in dict.fromkeys(table.arm) if "," not in arm]
METRICS = ["one_step_error_end", "v_error_end", "excess_fd_u_nfe1"]
plots.arms(table, "arm", METRICS, baseline="meanflow", order=alone)

# %% [markdown]
# *How to read it.* Further left is better; the line is MeanFlow with p = 1, as published. "p=0" has no adaptive weight.

# %%
found = analysis.findings(tree)
display(Markdown(analysis.sentences([f for f in found if f.claim.family in ("published", "league")])))

# %% [markdown]
# ## Accurate v or accurate u?
#
# Which arms are beaten by no other in both; the late shift, and as many steps as MeanFlow's, included.

# %%
plots.frontier(table, "arm", "v_error_end", "one_step_error_end", baseline="meanflow")

# %% [markdown]
# ## Does the late shift help each of them?

# %%
display(Markdown(analysis.sentences([f for f in found if f.claim.family.startswith("late")])))

# %% [markdown]
# ## Samples by one, two and four evaluations
#
# Frechet distances above the distance of the population's own samples.

# %%
columns = ["one_step_error_end", "v_error_end", *(f"excess_fd_u_nfe{nfe}" for nfe in (1, 2, 4))]
means = table.groupby("arm", sort=False)[columns].mean()
about = tree["training"].to_dataset().coords
steps = about["training.num_steps"].to_series().astype(int).groupby(about["arm"].to_series()).first()
display(HTML(means.assign(steps=steps).sort_values("one_step_error_end").to_html(float_format="{:.3g}".format)))

# %% [markdown]
# ## Where does each fail?
#
# The exact error of u by gap over training, of the objectives alone.

# %%
plots.over_training(tree, "u", "arm", where={"arm": alone})

# %% [markdown]
# ## Why? Conflict and noise of the gradients
#
# Unbiased cosines of v with u by gap at the end, on the same times for all; each objective's own loss. Below, how many
# rows each task needs until its gradient's signal equals its noise.

# %%
plots.affinity_by_start(tree, "arm", "last", where={"arm": alone})

# %%
noise = analysis.noise_scale(tree).sel(group="model").noise_scale.reset_coords(drop=True).to_dataframe().dropna()
last = noise.reset_index().sort_values("step").groupby(["run", "task"]).noise_scale.last().unstack()
arms = tree["gram"].to_dataset().arm.to_series()
display(HTML(last.groupby(arms).median().loc[alone].to_html(float_format="{:.0f}".format)))

# %% [markdown]
# ## AlphaFlow's own question: its curriculum, or its rows with r = t?

# %%
own = open_results(RESULTS / "alphaflow_curriculum" / "digits.nc")
plots.arms(analysis.study(own, analysis.axes_of(own)), "arm", METRICS, baseline="alpha 1 to 0")

# %%
display(Markdown(analysis.sentences(analysis.findings(own))))

# %%
plots.cosines_over_training(own, "arm", source="decomposition", line=-0.4)

# %% [markdown]
# *How to read it.* The cosine of trajectory flow matching with trajectory consistency, unbiased; the paper reports less
# than -0.4. Where a = 1 there is no consistency, and no line.
