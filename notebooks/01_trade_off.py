# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What did the target gain, and what did the source lose?
#
# Each variant of a study was trained on the target (a fisheye lens) and measured before and after
# on the target and on the source (a pinhole lens). *Adaptation* is how much better the target
# became, *forgetting* how much worse the source became. The untouched network, `zero_shot`, is
# the origin: nothing gained, nothing lost.

# %% tags=["parameters"]
import os

STUDY = "quickstart"
RESULTS = os.environ.get("DART_RESULTS", "../results")

# %%
import seaborn as sns
from IPython import display as screen

from dart.analysis import compare_study, load_runs, load_study, summarize
from dart.analysis.details import load_interpolation
from dart.analysis.figures import capacity, interpolation_curve, trade_off
from dart.errors import UserError

sns.set_theme(context="notebook", style="ticks")

# %% [markdown]
# The tidy frame has one row a run, image and metric. Everything below can be made from it and
# from `load_runs`, which has one row a run.

# %%
images = load_study(STUDY, results=RESULTS)
images.query("split == 'test'").sample(5, random_state=0)

# %%
runs = load_runs(STUDY, results=RESULTS)
columns = ["runs", "failed", "trainable_parameters", "total_parameters", "flops_per_image"]
columns += ["steps", "wall_seconds", "target_before", "target_after"]
columns += ["adaptation", "adaptation_std", "forgetting", "forgetting_std", "held_out_after"]
summarize(runs).set_index("variant")[columns]

# %% [markdown]
# Right is better on the target, down is better on the source. A small dot is one seed, a large one
# the mean over seeds, and the cross its interval: what other seeds and other images of the same
# kind could have given. The dotted line is the front, what no other variant beats on both. Whether
# two variants differ is another question, which `02_verdicts` answers pair by pair.

# %%
comparison = compare_study(STUDY, results=RESULTS)
ax = trade_off(runs, comparison=comparison)

# %% [markdown]
# What more parameters bring, where variants differ in them; and what lies between the network
# before adaptation and after it, where the runs measured mixtures of the two.

# %%
try:
    for objective in ("adaptation", "forgetting"):
        capacity(comparison, objective=objective)
except UserError as reason:
    screen.display(screen.Markdown(f"No figure of capacity: {reason}."))

# %%
try:
    interpolation_curve(load_interpolation(STUDY, results=RESULTS), metric=comparison.metric)
except UserError as reason:
    screen.display(screen.Markdown(f"No mixtures of weights: {reason}."))

# %% [markdown]
# The mean over images of every metric, domain by domain, after adaptation.

# %%
images.query("split == 'test'").pivot_table(
    index=["role", "variant"], columns="metric", values="after", observed=True
).round(3)
