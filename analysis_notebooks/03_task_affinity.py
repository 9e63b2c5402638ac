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
# # Do v and u pull the weights the same way?
#
# Study O3 of arXiv 2511.19065: the cosine of the gradients of v and of u in each bin of gaps, from four starts. The
# paper says that learning v first, and learning small gaps first, raise it.
#
# Most claims of these runs compare with random weights. There u is zero and only the final layer has a gradient, so
# that all tasks are alike: a fall from there is an artefact, and no opposite of the paper. `warm` is the fair
# reference. And large gaps are also large t here (t uniform given the gap). The experiment compares with `warm`, at one
# law of t, since.

# %%
from pathlib import Path

from IPython.display import Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")

# %%
tree = open_results(RESULTS / "task_affinity" / "digits.nc")
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %% [markdown]
# ## The cosine at the start, bin by bin
#
# At random weights the final layer is zero and alone has a gradient, so that the row `random` says little; `warm` has
# had twenty ordinary steps.

# %%
plots.affinity_by_start(tree, "start")

# %% [markdown]
# ## Does it last?
#
# From their starts all arms train ordinarily.

# %%
plots.cosines_over_training(tree, "start")

# %% [markdown]
# ## Why the naive estimate misleads
#
# The cosine of two minibatch gradients is not that of two tasks. Noise pulls it towards 0, the more the noisier the
# gradients are (`different splits`), and rows that both tasks share push it up again (`same split`). How much of each
# depends on the start, so that comparing starts by it mixes up affinity and noise. The unbiased estimate uses
# products of different splits alone.

# %%
plots.naive_against_unbiased(tree, "start")

# %% [markdown]
# The same at the last measurement:

# %%
plots.naive_against_unbiased(tree, "start", "last")

# %% [markdown]
# Does the estimate depend on the batch? One network, measured on fresh rows for each size:

# %%
one = open_results(RESULTS / "naive_cosine" / "run.nc")
plots.cosine_by_batch_size(analysis.cosine_by_batch(one, "v", "u 0.5-0.7"))

# %% [markdown]
# ## The same with a DiT
#
# A small DiT (depth 4, width 64; 300 steps from each start, not tuned) on the 1797 digits, four seeds, and on 5000
# MNIST images, three. Exact velocities of a finite set memorise, but gradients and their cosines are as good as any.

# %%
again = {scale: open_results(RESULTS / "task_affinity" / f"{scale}.nc") for scale in ("digits-dit", "mnist5k")}
found = {scale: analysis.findings(tree) for scale, tree in again.items()}
plots.effects(found["digits-dit"])

# %%
display(Markdown(analysis.sentences(found["digits-dit"])))

# %%
plots.effects(found["mnist5k"])

# %%
display(Markdown(analysis.sentences(found["mnist5k"])))
