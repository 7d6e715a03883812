# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The methods side by side
#
# Three papers search detectors in three ways. What does each of them search, on what, and at what cost; which gives the
# better front for the same seconds; and which one to use when? The code is `common/compare`, the rules stand in
# `common/compare/exhibits.py`. Nobody has published such a comparison.

# %%
import contextlib
import io
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

sys.path.insert(0, str(next(folder for folder in (Path.cwd(), Path.cwd().parent) if (folder / "common").is_dir())))

import detofa.presets
import joint_detnas.presets
import sm_nas.presets
from common.compare.detectors import drawn
from common.compare.exhibits import EXHIBITS, PAPER, ahead_there, front_area, lead
from common.compare.measure import measured
from common.compare.presets import NANO, SMOKE, Options
from common.report.card import Shown
from common.report.exhibit import ExhibitResult
from common.report.scoreboard import find_claims, scoreboard
from sm_nas.study import SMNAS

# %%
for package in ("torch", "torchvision", "moocore", "numpy", "pandas"):
    print(package, version(package))

# %% [markdown]
# ## What each method searches, on what, and at what cost
#
# At the papers' own scale. A supernet holds all of its candidates and is trained once; the others train each candidate
# that they look at. Costs are those that the papers print, each on its own hardware, and for DetOFA on Pascal VOC.

# %%
supernet, pool, modules = (each.PRESETS["paper"] for each in (detofa.presets, joint_detnas.presets, sm_nas.presets))
table = {
    "DetOFA": {
        "starts from": "a supernet, pre-trained",
        "detector": "CenterNet",
        "searches": "depth, width and expand ratio of the backbone",
        "choices": f"{supernet.space.size():.2e} paths",
        "trains": "one supernet",
        "hands over": "a detector for any budget",
        "printed cost": "0.8 GPU days",
    },
    "Joint-DetNAS": {
        "starts from": "a trained detector",
        "detector": "two stages on a pyramid",
        "searches": "blocks and channels of a student, its teacher, the input size",
        "choices": f"{pool.teachers.count():,} teachers, any student",
        "trains": f"a pool of teachers, then {pool.search.budget} pairs",
        "hands over": "that detector, better and cheaper",
        "printed cost": "200 GPU days",
    },
    "SM-NAS": {
        "starts from": "pre-trained backbones",
        "detector": "one or two stages, cascades",
        "searches": "modules and input size, then blocks and channels",
        "choices": f"{modules.structural.count():,} structures, {modules.modular.count():.2e} codes in each",
        "trains": f"{modules.stage_one.budget} candidates, then {modules.groups} x {modules.stage_two.budget}",
        "hands over": "detectors along a front of AP and time",
        "printed cost": "about 4,500 GPU hours",
    },
}
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame(table))

# %% [markdown]
# ## How fronts are compared
#
# The area of a front is the AP that it has within a budget of multiply-accumulates, averaged over all budgets of the
# box on a logarithmic scale. A cheap detector counts as much as a good one.

# %%
print("box:", *(f"{end / 1e6:g} M" for end in NANO.box), f"and {NANO.budget:g} CPU seconds a front at nano scale")
for name, macs, points in (("one good", [80e6], [25]), ("a cheap one, too", [80e6, 30e6], [25, 20])):
    print(f"{name}: {front_area(macs, points, NANO.box):.1f} AP points")

# %% [markdown]
# X-1 asks whether one method leads. One of three always seems to: of equal methods, seen in five seeds, the best is so
# far ahead of the second. So a lead must stand out from the noise of all three pairs, which it rarely does by chance.

# %%
equal = np.random.default_rng(0).normal(size=(2000, 5, 3))
print(f"best of three minus the second: {np.mean([np.diff(np.sort(each.mean(axis=0)))[-1] for each in equal]):+.2f}")
print(f"equal methods of which one leads: {np.mean([lead(each).low > 0 for each in equal]):.1%}")

# %% [markdown]
# X-3 asks whether that order holds on a second data set: each method must be ahead there of the next one in the order
# of the first. An order that holds on the first data set alone would bring nothing at either step, on average:

# %%
there = np.array([[21.0, 24.0, 22.5]])
by_chance = np.mean([ahead_there(each, there)[0] for each in equal], axis=0)
steps = ahead_there(there, there)[0]
print(f"the same order: {steps[0]:+.2f} and {steps[1]:+.2f}; any order: {by_chance[0]:+.2f} and {by_chance[1]:+.2f}")

# %% [markdown]
# ## Any detectors on one page, at smoke scale
#
# `python -m common.compare runs --data scenes` does this with everything that lies in `runs`. Here two detectors are
# trained for seconds on 32 images. **Their numbers mean nothing.**

# %%
study, files = SMNAS(sm_nas.presets.SearchOptions(data="scenes:train=48,val=16", out=Path(tempfile.mkdtemp()))), []
with contextlib.redirect_stderr(io.StringIO()):
    for name, structure in study.preset.models[:2]:
        study.trained(f"final-{name.lower()}", structure, study.preset.stage_two_training)
        files.append(study.write_detector(f"final-{name.lower()}", study.preset.stage_two_training))

# %%
records, problems = measured(files, study.sets["validation"], study.folder / "measured", SMOKE, "cpu")
result = drawn(records, problems, Options(), "python -m common.compare runs --data scenes")
print(len(result.pictures), "pictures;", ", ".join(result.table.columns))
for row in result.table.rows:
    print(row[0], row[1], row[2], f"{row[6]:.1f} M MAC, {row[7]:.2f} M parameters")

# %% [markdown]
# ## The results
#
# What `python -m common.compare --scale nano --publish` committed to `results/nano/compare`: the fronts, the pairs and
# the second data set, as far as they are there; what the papers' own reproductions reached, at budgets that are not
# equal; and the verdicts by the rules.

# %%
folder = Path(sys.path[0]) / "results" / "nano" / PAPER.name
for exhibit in EXHIBITS:
    if (folder / f"{exhibit.name}.json").is_file():
        display(Shown(ExhibitResult.load(folder / f"{exhibit.name}.json")))

# %%
claims = find_claims([folder])[0] if folder.is_dir() else []
display(Markdown(scoreboard(claims) if claims else "X-1 to X-3 are not judged yet: their runs are still to be made."))

# %% [markdown]
# ## Which to use when
#
# By what each method is, before any number:
#
# - **Many budgets, one training**: DetOFA. Every further budget costs a search of seconds.
# - **A detector that one has already**: Joint-DetNAS. It makes a two-stage detector with a pyramid cheaper.
# - **Free choice of detector and input size, time as the cost**: SM-NAS. It trains every candidate, so it needs the
#   most seconds before it knows anything, and finds kinds of detectors that the other two cannot reach.
#
# What the same seconds give is for the results above to say.
