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
# # What may be claimed?
#
# Every variant against the baseline, by the rule that the study declared before it ran: *better*
# asks for a gain on the target that chance does not explain, and for forgetting that stays below
# the margin. `docs/verdicts.md` says how to read it; `dart compare` prints the same numbers.

# %% tags=["parameters"]
import os

STUDY = "quickstart"
RESULTS = os.environ.get("DART_RESULTS", "../results")
BASELINE = None  # the study's own
METRIC = None

# %%
import seaborn as sns
from IPython.display import Markdown

from dart.analysis import compare_study
from dart.analysis.figures import forest
from dart.analysis.verdict_tables import to_frame, to_markdown

sns.set_theme(context="notebook", style="ticks")

# %%
comparison = compare_study(STUDY, baseline=BASELINE, metric=METRIC, results=RESULTS)
Markdown(to_markdown(comparison))

# %% [markdown]
# The bar is the interval of the difference to the baseline. The shaded band is what the study
# declared to make no practical difference: a bar inside it is *equivalent* there.

# %%
ax = forest(comparison, objective="adaptation")

# %%
ax = forest(comparison, objective="forgetting")

# %% [markdown]
# What the table leaves out: relative effects, the effect size d_z, the one-sided bound, and the
# probabilities that the effect lies above, within and below the region of practical equivalence.
# `to_frame` has every number of the comparison.

# %%
columns = ["relative", "relative_lower", "relative_upper", "effect_size", "bound"]
columns += ["p_above", "p_within", "p_below"]
frame = to_frame(comparison).dropna(subset="difference").set_index(["variant", "objective"])
frame[columns].round(4)
