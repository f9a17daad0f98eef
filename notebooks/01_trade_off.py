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

from dart.analysis import compare_study, load_runs, load_study, summarize
from dart.analysis.figures import trade_off

sns.set_theme(context="notebook", style="ticks")

# %% [markdown]
# The tidy frame has one row a run, image and metric. Everything below can be made from it and
# from `load_runs`, which has one row a run.

# %%
images = load_study(STUDY, results=RESULTS)
images.query("split == 'test'").sample(5, random_state=0)

# %%
runs = load_runs(STUDY, results=RESULTS)
columns = ["runs", "failed", "trainable_parameters", "target_before", "target_after"]
columns += ["adaptation", "adaptation_std", "forgetting", "forgetting_std", "held_out_after"]
summarize(runs).set_index("variant")[columns]

# %% [markdown]
# Right is better on the target, down is better on the source. A small dot is one seed, a large one
# the mean over seeds, and the cross its interval: what other seeds and other images of the same
# kind could have given. The dotted line is the front, what no other variant beats on both. Whether
# two variants differ is another question, which `02_verdicts` answers pair by pair.

# %%
ax = trade_off(runs, comparison=compare_study(STUDY, results=RESULTS))

# %% [markdown]
# The mean over images of every metric, domain by domain, after adaptation.

# %%
images.query("split == 'test'").pivot_table(
    index=["role", "variant"], columns="metric", values="after", observed=True
).round(3)
