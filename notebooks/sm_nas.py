# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # SM-NAS, from structures to modules
#
# *SM-NAS: Structural-to-Modular Neural Architecture Search for Object Detection*, Yao, Xu, Zhang, Liang, Li; AAAI
# 2020. The code is `sm_nas/method.py`, in the paper's order; the differences from the paper are numbered in
# `sm_nas/README.md`. Here each piece runs on something small enough to look at, followed by the committed results.

# %%
import contextlib
import io
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

sys.path.insert(0, str(next(folder for folder in (Path.cwd(), Path.cwd().parent) if (folder / "common").is_dir())))

from common.plain import InputError
from common.report.card import Shown
from common.report.exhibit import ExhibitResult
from common.report.scoreboard import find_claims, scoreboard
from common.search.pareto import hypervolume
from sm_nas import method
from sm_nas.encoding import BackboneCode, Structure
from sm_nas.exhibits import EXHIBITS, STANDARD_OF, parts_of
from sm_nas.networks import describe, describe_backbone
from sm_nas.presets import NANO, PAPER, SearchOptions
from sm_nas.study import SMNAS

# %%
for package in ("torch", "torchvision", "numpy", "pandas", "matplotlib"):
    print(package, version(package))
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## Stage one: which modules go together
#
# A structure is a backbone, a pyramid over some levels (or none), an RPN with one to four heads (or RetinaNet's), and
# an input size. The paper counts $1.1 \times 10^4$ of them.

# %%
space, generator = PAPER.structural, np.random.default_rng(0)
print(f"{space.count():,} structures; five at random:")
for _ in range(5):
    print(" ", space.sample(generator))

# %% [markdown]
# A mutation exchanges one module, or the size.

# %%
structure = Structure.parse("resnet50 800x600 P1-P5 c256 rpn 2fc")
for _ in range(4):
    structure = space.mutate(structure, generator)
    print(structure)

# %% [markdown]
# ## Stage two: the backbone as a code
#
# In `basicblock_48_12-21-11111-211111`, a 1 is a block, a 2 one that doubles the channels, a dash halves the
# resolution. The paper counts $5.0 \times 10^{12}$ codes; exactly three doublings and 5 to 35 blocks leave fewer.

# %%
code = BackboneCode.parse("basicblock_48_12-21-11111-211111")
print(f"{PAPER.modular.count():,} codes with a neck width")
print("blocks:", code.blocks, " channels:", code.widths, " doubled at:", code.doublings)

# %% [markdown]
# A code that is not legal says why.

# %%
for text in ("basicblock_48_12-2-11-1", "bottleneck_48_2222-1-1-1", "basicblock_48_12--21-2"):
    try:
        BackboneCode.parse(text)
    except InputError as error:
        print(error)

# %% [markdown]
# ## The final models (Table 2)
#
# Costs of E0 to E5, counted by the paper's convention at its own sizes: 80 classes, multiply-accumulates of the
# backbone.

# %%
rows = []
for name, model in PAPER.models:
    standard = replace(model, backbone=STANDARD_OF[name])
    ours, theirs = describe(model, 80, PAPER.detector), describe_backbone(standard, PAPER.detector)
    own, other = (each["backbone_macs_mmdet"] for each in (ours, theirs))
    rows.append([name, *parts_of(model), own / 1e9, own / other, ours["params"] / 1e6])
columns = ["", "input", "backbone", "neck", "RPN", "head", "backbone, G", "of the standard", "parameters, M"]
display(pd.DataFrame(rows, columns=columns).round(2))

# %% [markdown]
# ## Partial order pruning
#
# A network that is nowhere deeper nor wider is taken to be no more accurate. So a candidate need not be trained when
# such a larger one is already no better than a cheaper network on the front.

# %%
small, large, cheap = (
    Structure.parse(f"basicblock_48_{stages} 800x600 P1-P5 c128 rpn 2fc")
    for stages in ("12-2-2-1", "12-2-21-11", "2-2-2-11")
)
print("nowhere larger:", method.not_larger(small, large), method.not_larger(cheap, large))
history = method.History([method.Evaluated(large, 9.0, 0.30, 0), method.Evaluated(cheap, 4.0, 0.31, 0)])
print("speaks against the small one:", *method.speaks_against(small, 5.0, history), sep="\n  ")

# %% [markdown]
# ## The search, on a made-up landscape
#
# Accuracy that grows with depth and with blocks in the last stage; cost that grows with the blocks of early ones.
# Evolution from the front against random search, as many candidates each.


# %%
def made_up(structures):
    for structure in structures:
        code = BackboneCode.parse(structure.backbone).whole()
        cost = sum(len(digits) * code.base / 2**stage for stage, digits in enumerate(code.stages))
        yield {"cost": cost, "AP": 1 - np.exp(-code.blocks / 12) + 0.3 * len(code.stages[3]) / code.blocks}


group = method.Group(PAPER.modular, small)
settings = method.SearchSettings(budget=60, first=15, generation=9)
found = method.evolve(group, settings, made_up, seed=(0,))
chance = method.random_search(group, settings, made_up, seed=(0,))
for name, result in (("evolution", found), ("random", chance)):
    costs, accuracies = zip(*[(each.cost, each.accuracy) for each in result.evaluated], strict=True)
    plt.scatter(costs, accuracies, s=12, label=f"{name}: area {hypervolume(costs, accuracies, (1000, 0)):.0f}")
plt.xlabel("made-up cost")
plt.ylabel("made-up accuracy")
plt.legend()
plt.show()

# %% [markdown]
# ## The pipeline, on made-up landscapes
#
# `structural_to_modular` is all of it: stage one, its picks, stage two inside each, and what is handed on. Here a
# made-up time and AP stand in for training in stage one, the landscape above in stage two; the final training is left
# out.


# %%
def search(stage):
    def by_structure(structures):
        for structure in structures:
            depth = list(PAPER.structural.backbones).index(structure.backbone) + structure.heads
            pixels = structure.size[0] * structure.size[1] / 1e6
            yield {"cost": pixels * (5 + depth), "AP": 1 - np.exp(-depth * pixels / 4)}

    evaluate = by_structure if stage.cost == method.LATENCY else made_up
    return method.evolve(stage.space, settings, evaluate, seed=(0, stage.number), start=stage.start)


found = method.structural_to_modular(NANO, search, lambda structure: 60.0, lambda name, structure: structure)
for name, structure in found.items():
    print(f"{name}: {structure}")

# %% [markdown]
# ## Both stages, at smoke scale
#
# All of it, in seconds, on 32 images. **Its numbers mean nothing**; the steps are those of every scale.

# %%
study = SMNAS(SearchOptions(data="scenes:train=64,val=16", out=Path(tempfile.mkdtemp())))
with contextlib.redirect_stderr(io.StringIO()):
    picks, networks = study.picks, study.found()
for place, each in enumerate(picks):
    print(f"C{place}: {each.structure}, {100 * each.accuracy:.2f} points")
for name, structure in networks.items():
    print(f"{name}: {structure}")

# %% [markdown]
# ## The results
#
# What `python -m sm_nas.reproduce --scale nano --publish` committed to `results/nano/sm_nas`: each table beside the
# paper's and each figure, then the verdict on each claim by the rule written down before the runs
# (`sm_nas/exhibits.py`).

# %%
folder = Path(sys.path[0]) / "results" / "nano" / "sm_nas"
for exhibit in EXHIBITS:
    if (folder / f"{exhibit.name}.json").is_file():
        display(Shown(ExhibitResult.load(folder / f"{exhibit.name}.json")))

# %%
claims = find_claims([folder])[0] if folder.is_dir() else []
display(Markdown(scoreboard(claims) if claims else "The judged runs are under way."))
