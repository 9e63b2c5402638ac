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
# # What do gaps do to v?
#
# Study O2 of arXiv 2511.19065: u alone is trained over one bin of gaps t - r, from random weights or from weights
# that know v. The paper says that small gaps build and refine v = u(z, t, t), and that large gaps fail or destroy it.
#
# The claim that small gaps refine a learned v compares raw weights at the start with averaged ones at the end, and
# averaging alone lowers the error of v by 15%. From average to average small gaps change a learned v by
# -1% [-5%, +3%] (see below). The experiment measures both on averages since.
#
# Large gaps never visit small t, and would be worse at v for that alone. The arms `matched` have one law of t for all
# bins (t >= 0.9), which takes that difference away; v is then also judged where it was drawn.

# %%
from pathlib import Path

from IPython.display import Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")

# %%
tree = open_results(RESULTS / "gap_ablation" / "digits.nc")
table = analysis.study(tree, analysis.axes_of(tree))
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %% [markdown]
# ## How much of v is there at the end?

# %%
plots.grid_heatmap(table, "init", "gap", "v_error_end")

# %% [markdown]
# Every seed, with samples made by v beside the error:

# %%
plots.arms(table, ("init", "gap"), ["v_error_end", "v_error_0.9-1_end", "fd_v_nfe32"], order="value")

# %% [markdown]
# ## At which times t is v built, from nothing?

# %%
plots.over_training(tree, "v", "gap", {"init": "random"})

# %% [markdown]
# ## At which times t is a learned v refined or destroyed?

# %%
plots.over_training(tree, "v", "gap", {"init": "v"})

# %% [markdown]
# ## A learned v, from average to average
#
# The averaged weights of v alone at their end, which the committed runs did not start from, against those at the end.

# %%
axes = analysis.axes_of(tree)
learned = analysis.study(tree, axes, role="before").set_index("seed").v_error_end
for gap in ("0.1-0.3", "0.7-0.9"):
    after = table[(table.init == "v") & (table.gap == gap)].set_index("seed").v_error_end
    print(f"gaps {gap}: {learned.mean():.3f} to {after.mean():.3f}, x{(after / learned).mean():.2f}")

# %% [markdown]
# ## The same with a DiT
#
# On finite data the exact v memorises, so that these errors say little about quality.
#
# A small DiT (depth 4, width 64; at most 600 steps, three or four seeds, not tuned) on the 1797 digits and on 5000
# MNIST images.
# Intervals are those of three seeds, and wide for it.

# %%
again = {scale: open_results(RESULTS / "gap_ablation" / f"{scale}.nc") for scale in ("digits-dit", "mnist5k")}
found = {scale: [f for f in analysis.findings(tree) if f.num_seeds] for scale, tree in again.items()}
plots.effects(found["digits-dit"])

# %%
display(Markdown(analysis.sentences(found["digits-dit"])))

# %%
plots.effects(found["mnist5k"])

# %%
display(Markdown(analysis.sentences(found["mnist5k"])))
