# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # DetOFA, equation by equation
#
# *DetOFA: Efficient Training of Once-for-All Networks for Object Detection using Path Filter*, Sakuma, Ishii,
# Narihira; ICCV Workshops 2023. The code is `detofa/method.py`, in the paper's order; the differences from the
# paper are numbered in `detofa/README.md`. Here each piece runs on something small enough to look at, followed by
# the committed results.

# %%
import contextlib
import io
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

sys.path.insert(0, str(next(folder for folder in (Path.cwd(), Path.cwd().parent) if (folder / "common").is_dir())))

from common.data.batches import DetectionBatches
from common.data.source import load
from common.evaluate.recalibrate import reestimate_batch_norm
from common.letterbox import in_pictures
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import ResNet
from common.report.card import Shown
from common.report.exhibit import ExhibitResult
from common.report.runs import notes
from common.report.scoreboard import find_claims, scoreboard
from common.train.run_folder import Run
from detofa import method
from detofa.exhibits import EXHIBITS
from detofa.presets import NANO, PAPER, Options, PruningSettings
from detofa.search import describe
from detofa.study import DetOFAStudy

# %%
for package in ("torch", "torchvision", "numpy", "pandas", "matplotlib"):
    print(package, version(package))
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## The search space (Table 1)
#
# A backbone has four blocks. A block has a depth D (0, 1 or 2 extra layers) and a width ratio W; every layer has
# an expand ratio E. Table 1 prints about $10^{20}$ networks; its formula gives another number, and counting gives
# a third.

# %%
description = describe(PAPER)
sizes, formulas = description["size"], description["size"]["printed_in_table_1"]
rows = {name: [formulas[name]["printed"], f"{formulas[name]['value']:.3g}", f"{sizes[name]:,}"] for name in formulas}
display(pd.DataFrame(rows, index=["printed", "its formula", "counted"]).T)

# %% [markdown]
# A path is a row of choice indices, and its name spells them: depth and width of the blocks, then the expand ratio
# of every layer that is there. Depth drops the last layers of a block.

# %%
space = PAPER.space
path = space.from_key("d0000-w2222-e12.00.0000.22")
print(path)
print(space.describe(path))

# %% [markdown]
# ## Tokens and positions (Section 3.1.1, Equation 3)
#
# The filter sees one token a layer: SC where depth dropped it, else the pair (W, E). The first block below is the
# paper's own example, `W1.0_E0.25 W1.0_E0.35 SC SC`.

# %%
words = ["SC", *(f"W{width}_E{expand}" for width in space.widths for expand in space.expands)]
tokens = method.tokenise(space, path[None])[0]
for block in range(4):
    print(*(words[token] for token in tokens[space.layer_stage == block]))

# %% [markdown]
# Equation 3 as printed is garbled; the text names the standard sine and cosine encoding, which is used, once for
# the layer and once for the block, and added.

# %%
layers = method.positional_encoding(range(len(space.layer_stage)), 128)
blocks = method.positional_encoding(space.layer_stage, 128)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.2), layout="constrained")
for axis, name, values in zip(axes, ("layer", "layer + block"), (layers, layers + blocks), strict=True):
    axis.imshow(values, aspect="auto", cmap="RdBu")
    axis.set(title=name, xlabel="dimension", ylabel="layer")
plt.show()

# %% [markdown]
# ## The FLOPs-bounded loss (Equations 4 and 5)
#
# $$\mathcal{L}_p = \max(0,\ 1 - t_{aa'}\,(g(a) - g(a')))^2$$
#
# $t_{aa'} = 1$ where path $a$ has the lower validation loss and both lie in one cost bucket. Three paths; the
# first two share a bucket, the first is better but scored lower:

# %%
scores, losses = torch.tensor([0.4, 0.6, 0.9]), torch.tensor([1.0, 2.0, 3.0])
buckets = torch.tensor([0, 0, 1])
bounded = float(method.flops_bounded_loss(scores, losses, buckets))
print(f"one pair counts: {bounded:.3f}, by hand {(1 - (0.4 - 0.6)) ** 2:.3f}")

# %% [markdown]
# Without the bound, pairs across buckets count too, and the filter mostly learns that dearer is better:

# %%
pairs = [(0, 1), (0, 2), (1, 2)]  # lower loss first
by_hand = np.mean([max(0.0, 1 - float(scores[a] - scores[b])) ** 2 for a, b in pairs])
unbounded = float(method.flops_bounded_loss(scores, losses, buckets, bounded=False))
print(f"all three pairs: {unbounded:.3f}, by hand {by_hand:.3f}")

# %% [markdown]
# ## Algorithm 1, at smoke scale
#
# `method.algorithm_1` is the algorithm line by line: supernet and path filter pre-trained on classification, warm-up,
# sampled paths, fine-tuning of the filter, pruning, training on what is left. Here it takes seconds, on 48 images;
# **its numbers mean nothing**, its steps are those of every scale.

# %%
study = DetOFAStudy(Options(data="scenes:train=80,val=24", out=Path(tempfile.mkdtemp()), device="cpu"), seed=0)
with contextlib.redirect_stderr(io.StringIO()), Run.open(tempfile.mkdtemp(), {}) as run:
    supernet, costs = method.algorithm_1(study, run, PruningSettings(), study.preset.fine_tuning)
    result = study.result("ours")
display(pd.DataFrame(costs).T.round(2))
print(f"{study.space.size():,} paths, {int(result['space']):,} after operation pruning")

# %% [markdown]
# Lines 3 and 4: sampled paths with their validation loss, from which the filter learns. Only comparisons inside a
# cost bucket count.

# %%
warm_up_losses = study.validated("warm-up")
costs = study.constraint.cost(warm_up_losses.paths) / 1e6
figure, axis = plt.subplots(figsize=(5, 2.5), layout="constrained")
axis.scatter(costs, warm_up_losses.losses, c=study.constraint.bucket(warm_up_losses.paths), cmap="viridis")
axis.set(xlabel="MMAC of the backbone", ylabel="validation loss", title="sampled paths, coloured by bucket")
plt.show()
# %% [markdown]
# ## Operation scores and pruning (Section 3.2)
#
# An operation's score is the mean score of n paths with the operation inserted. *FLOPs & score (all)* removes the
# worst 10 % of all operations, then the worst 30 % of each cost bucket.

# %%
sampler, operations = study.pruned(PruningSettings())
kept = sampler.operations.allowed[tuple(operations.index.T)]
figure, axis = plt.subplots(figsize=(5, 2.5), layout="constrained")
for name, chosen in (("kept", kept), ("pruned", ~kept)):
    axis.scatter(operations.cost[chosen] / 1e6, operations.score[chosen], s=8, label=f"{name}: {chosen.sum()}")
axis.set(xlabel="mean MMAC with the operation", ylabel="operation score")
axis.legend()
plt.show()
# %% [markdown]
# Lines 10 to 13: a drawn path whose score lies under its bucket's threshold is drawn again. The thresholds cut
# off the worst quarter of each bucket.

# %%
drawn = sampler.operations.sample(2000, np.random.default_rng(0))
accepted = sampler.scorer(drawn) >= sampler.thresholds[study.constraint.bucket(drawn)]
print(f"{accepted.mean():.0%} of uniform paths are trained")

# %% [markdown]
# ## Search (Equation 2)
#
# $a^* = \arg\max g(a)$ subject to $\mathrm{FLOPs}(a) \le \tau$, by evolution. Scores compare paths of one bucket,
# so the dearest affordable bucket comes first.

# %%
table = pd.DataFrame(result["found"])[["path", "cost", "bucket", "AP"]]
table.insert(0, "budget", result["budgets"])
display(table)

# %% [markdown]
# ## The results
#
# What `python -m detofa.reproduce --scale nano --publish` committed to `results/nano/detofa`: each table beside the
# paper's and each figure, then the verdict on each claim by the rule that was written before the runs.

# %%
folder = Path(sys.path[0]) / "results" / "nano" / "detofa"
for note in notes(folder):
    display(Markdown(note))
for file in (folder / f"{exhibit.name}.json" for exhibit in EXHIBITS):
    if file.is_file():
        display(Shown(ExhibitResult.load(file)))

# %%
claims, _ = find_claims([folder])
display(Markdown(scoreboard([claim for claim in claims if len(claim["seeds"]) > 1])))

# %% [markdown]
# ## A detector at work
#
# The largest network of the nano space, trained here for a few seconds on eight scenes, **the very ones it is
# shown on**: this checks that targets, losses and decoding fit together, and says nothing about accuracy on other
# images.

# %%
few, nano = load("scenes:train=8", "train"), NANO
torch.manual_seed(0)
backbone = ResNet(nano.space.architecture(nano.space.largest()))
detector = CenterNet(backbone, len(few.categories), nano.neck_widths, nano.head_width)
batch = next(DetectionBatches(few, nano.image_size, len(few)).in_order())

# %%
optimiser = torch.optim.Adam(detector.parameters(), lr=4e-3)
for step in range(151):
    optimiser.zero_grad()
    loss = centernet_losses(detector(batch.images), batch)["loss"]
    loss.backward()
    optimiser.step()
    if step % 50 == 0:
        print(step, f"{float(loss.detach()):.2f}")

# %%
reestimate_batch_norm(detector, [batch.images])
found = in_pictures(detector.eval().detect(batch.images), batch.sizes, nano.image_size)

# %% [markdown]
# Dashed: the ground truth. Solid: detections with a score above 0.3.


# %%
def outline(axis, box, label, **style):
    left, top, right, bottom = box.tolist()
    axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, **style))
    axis.text(left, top, label, fontsize=5, color=style["color"], va="bottom")


# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
for index, axis in enumerate(axes):
    axis.imshow(few.load_image(index))
    for box in few.boxes[few.boxes_of(index)]:
        outline(axis, box, "", color="white", linestyle="--", linewidth=0.8)
    for detection in torch.nonzero(found.scores[index] > 0.3).flatten():
        name = few.categories[found.labels[index, detection]]
        outline(axis, found.boxes[index, detection], name, color="yellow", linewidth=0.8)
    axis.axis("off")
plt.show()

# %% [markdown]
# To get a detector for a budget out of a trained supernet: `python -m detofa.search --help`.
