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
# # Does the improved schedule help?
#
# The paper (arXiv 2511.19065) weighs the rows: alpha(t) on v (MinSNR, or a curriculum DTD), beta on u, which moves
# from small gaps to all. Every open choice has a name here, and each component has a control that keeps its average
# weight and takes away the order.
#
# These runs are unguided, use p = 0 and converge; the paper's are guided, use p = 1 and end far from convergence: what
# is not seen here is not refuted there. DTD ends its last stage at 55% to 62% of training here, as published
# below 1%: those arms are another curriculum.

# %%
from pathlib import Path

from IPython.display import Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")

# %% [markdown]
# ## Components and controls

# %%
tree = open_results(RESULTS / "component_ablation" / "digits.nc")
table = analysis.study(tree, analysis.axes_of(tree))
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %%
plots.arms(table, "arm", ["one_step_error", "fd_u_nfe1", "fd_v_nfe32"], baseline="vanilla", order="value")

# %% [markdown]
# ## The same with a DiT
#
# A small DiT (depth 4, width 64; at most 600 steps, three or four seeds, not tuned) on the 1797 digits and on 5000
# MNIST images.
# Six arms and two laws of gaps; everything else is left to the broad study above. On finite data exact errors measure
# memorisation.

# %%
again = {scale: open_results(RESULTS / "component_ablation" / f"{scale}.nc") for scale in ("digits-dit", "mnist5k")}
found = {scale: [f for f in analysis.findings(tree) if f.num_seeds] for scale, tree in again.items()}
plots.effects(found["digits-dit"])

# %%
display(Markdown(analysis.sentences(found["digits-dit"])))

# %%
plots.effects(found["mnist5k"])

# %%
display(Markdown(analysis.sentences(found["mnist5k"])))

# %% [markdown]
# ## How fast should beta move?
#
# Published (1-NFE FID, B/4, with DTD): 11.16, 10.20 and 11.44 for k = 0.5, 1 and 2.

# %%
tree = open_results(RESULTS / "schedule_exponent" / "digits.nc")
table = analysis.study(tree, analysis.axes_of(tree))
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %%
plots.arms(table, "arm", ["one_step_error", "fd_u_nfe1", "fd_v_nfe32"], baseline="vanilla")

# %% [markdown]
# ## At every strength of guidance?

# %%
tree = open_results(RESULTS / "guidance_grid" / "digits.nc")
table = analysis.study(tree, analysis.axes_of(tree))
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %%
plots.grid_heatmap(table, "schedule", "guidance", "fd_u_nfe1")

# %% [markdown]
# The exact error is that against the guided velocity that each setting converges to, so that columns are different
# problems.

# %%
plots.grid_heatmap(table, "schedule", "guidance", "one_step_error")

# %% [markdown]
# ## How many steps does it save?
#
# Published: 2.1 to 2.5 times fewer steps to vanilla's final FID. Every point is a training of its own, since a
# schedule depends on the planned number of steps; lengths are in units of the other studies' training.

# %%
tree = open_results(RESULTS / "convergence" / "digits.nc")
table = analysis.study(tree, analysis.axes_of(tree))
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %%
plots.errors_by_length(table, ["one_step_error", "fd_u_nfe1", "v_error"])
