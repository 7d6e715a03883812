# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Joint-DetNAS, upgrading a detector step by step
#
# *Joint-DetNAS: Upgrade Your Detector with NAS, Pruning and Dynamic Distillation*, Yao, Pi, Xu, Zhang, Li, Zhang; CVPR
# 2021. The code is `joint_detnas/method.py`, in the paper's order; the differences from the paper are numbered in
# `joint_detnas/README.md`. Here each piece runs on something small enough to look at, followed by the committed
# results.

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
from common.models.described import as_described
from common.models.fpn import FPN
from common.models.resnet import ResNet
from common.models.two_stage import TwoStage
from common.report.card import Shown
from common.report.exhibit import ExhibitResult
from common.report.runs import notes
from common.report.scoreboard import find_claims, scoreboard
from joint_detnas import method
from joint_detnas.exhibits import EXHIBITS
from joint_detnas.presets import NANO, PAPER, Options, SearchSettings, size_name
from joint_detnas.study import JointDetNASStudy

# %%
for package in ("torch", "torchvision", "numpy", "pandas", "matplotlib"):
    print(package, version(package))
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## A student
#
# Any two-stage detector with a pyramid on a ResNet, ResNeXt or MobileNetV2 is a student once its backbone is written
# down block by block: family, channels of the stem, then blocks x channels of each stage. This one is thin, and fresh;
# its batch-norm weights are drawn as if it had been trained.

# %%
scenes, size = load("scenes:train=8,size=96", "train"), NANO.base_size
torch.manual_seed(0)
backbone = ResNet("resnet18", width=NANO.detector.width)
neck, stages = FPN(backbone.out_channels, width=NANO.detector.neck_width), method.both_stages(NANO.detector)
student = as_described(TwoStage(backbone, len(scenes.categories), neck, *stages))

# %%
for layer in student.backbone.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
        torch.nn.init.uniform_(layer.weight)
print(student.backbone.architecture)

# %% [markdown]
# ## The action space (Figure 3)
#
# Four kinds of action change a student a little, and what it becomes inherits its weights.

# %%
changed = {"as it was": student}
for action in (
    method.LayerPruning(),
    method.ChannelPruning(10.0),
    method.AddLayer(stage=3, position=2),
    method.Rearrange(stage=2, direction=1),
):
    changed[str(action)] = method.evolve(student, action)

# %%
rows = []
for name, network in changed.items():
    architecture = network.backbone.architecture
    own, before = (method.backbone_cost(each, size) for each in (architecture, student.backbone.architecture))
    rows.append([name, str(architecture), own.macs_mmdet / 1e6, own.macs_mmdet / before.macs_mmdet, own.params / 1e3])
columns = ["action", "backbone", "MMACs", "of what it was", "parameters, thousands"]
display(pd.DataFrame(rows, columns=columns).round(3))

# %% [markdown]
# A layer that is added adds nothing yet: every feature stays the same, to the bit.

# %%
deeper = changed["add-layer stage 3 position 2"]
images = torch.randn(2, 3, *size[::-1])
with torch.no_grad():
    one, other = ([*network.eval().backbone(images)] for network in (student, deeper))
assert all(map(torch.equal, one, other))
print(f"{deeper.backbone.architecture.blocks} blocks say what {student.backbone.architecture.blocks} said")

# %% [markdown]
# ## One threshold for all channels (Section 3.3)
#
# Channels are pruned by the batch norm's weights, under one threshold for the whole backbone. What a stage puts out is
# one set, since all its blocks write to it and read it. So some widths lose much, and others nothing.

# %%
importance = method.channel_importance(student.backbone)
kept = method.kept_channels(student.backbone, 10.0)
removed = {name: np.delete(values, kept[name]) for name, values in importance.items()}
threshold = max(values.max(initial=0) for values in removed.values())
for place, (name, values) in enumerate(importance.items()):
    plt.scatter([place] * len(values), values, s=6, color="0.7")
    plt.scatter([place] * len(removed[name]), removed[name], s=10, color="tab:red")
plt.axhline(threshold, linewidth=0.8)
plt.xticks(range(len(importance)), importance, rotation=60, ha="right", fontsize=7)
plt.ylabel("importance (red: pruned)")
plt.show()

# %%
widths = {"before": {name: len(values) for name, values in importance.items()}}
widths["after"] = {name: len(kept[name]) for name in importance}
display(pd.DataFrame(widths).T)

# %% [markdown]
# ## The elastic teacher pool (Section 3.1.3)
#
# A teacher is a depth and a width for each of four stages, and a width of the neck. The paper counts "roughly 765,000
# (including different image resolutions)"; the numbers that it gives multiply to less.

# %%
space, generator = PAPER.teachers, np.random.default_rng(0)
print(f"{space.count():,} teachers; with four resolutions {4 * space.count():,}; the paper: roughly 765,000")
print(f"with one more elastic width of three, and four resolutions: {3 * 4 * space.count():,}")

# %%
named = {"smallest": space.smallest(), **dict(PAPER.equivalents[1:]), "largest": space.largest()}
costs = {name: method.teacher_cost(space, teacher, PAPER.base_size, 80) for name, teacher in named.items()}
rows = [[name, str(named[name]), cost.macs_mmdet / 1e9, cost.params / 1e6] for name, cost in costs.items()]
display(pd.DataFrame(rows, columns=["", "teacher", "G at 1333x800", "parameters, M"]).round(1))

# %% [markdown]
# A step of the search draws depth or width of each stage anew, and the neck's width.

# %%
teacher = space.largest()
for _ in range(4):
    teacher = method.mutate_teacher(space, teacher, generator)
    print(teacher)

# %% [markdown]
# ## What a teacher adds to the loss (Section 3.2)
#
# Features of positive regions, class probabilities of all sampled ones, and boxes weighted by the teacher's
# probabilities. Here they are computed on eight scenes, with a student and a pool that have learnt nothing.

# %%
batch = next(iter(DetectionBatches(scenes, size, len(scenes), "cpu").in_order()))
pool = method.TeacherPool(NANO.teachers, len(scenes.categories), *stages)
pupil = method.Pupil(student.train(), pool.fpn.width)
losses = {}
for name, teacher in (("smallest", NANO.teachers.smallest()), ("largest", NANO.teachers.largest())):
    torch.manual_seed(0)  # the same regions are sampled for both
    taught = pupil.losses(batch, pool.ready(teacher, [batch.images]), NANO.distillation, gamma_weight=1e-5)
    losses[f"under the {name}"] = {part: float(value.detach()) for part, value in taught.items()}
display(pd.DataFrame(losses).round(4))

# %% [markdown]
# ## The score H (Section 3.1.4)
#
# $H = \mathrm{mAP} \cdot [\frac{C}{C_\mathrm{base}} (\frac{R}{R_\mathrm{base}})^\beta]^{-\alpha}$: along a line, cost
# and AP are worth the same. At a smaller input size a lower AP will do.

# %%
judge = method.Judge(1.0, PAPER.base_size, PAPER.search.alpha, PAPER.search.beta)
cost, ap = np.meshgrid(np.linspace(0.3, 1.2, 50), np.linspace(34, 44, 50))
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for panel, judged in zip(axes, (PAPER.sizes[0], PAPER.base_size), strict=True):
    panel.clabel(panel.contour(cost, ap, judge.score(ap, cost, judged), range(34, 52, 2)))
    panel.set(title=f"H at {size_name(judged)}", xlabel="cost at the base size, of the base's")
axes[0].set_ylabel("AP, points")
plt.show()

# %% [markdown]
# ## Algorithm 1, on a made-up landscape
#
# Real students and real actions, but nothing is trained: accuracy grows with the student's parameters, and with a
# teacher that is some four times as large. The search draws parents from the five best pairs, random search from all.

# %%
space, first = NANO.teachers, method.backbone_cost(student.backbone.architecture, size)
thin = method.Judge(float(first.macs_mmdet), size, alpha=0.07, beta=1.0)


def made_up_ap(student, teacher):
    taught_by = method.teacher_cost(space, teacher, size, 10).parts["backbone"]["params"]
    match = np.exp(-(np.log(taught_by / student.params / 4) ** 2))
    return (1 - np.exp(-1.5 * student.params / first.params)) * (0.9 + 0.1 * match)


# %%
def made_up(pairs):
    for each in pairs:
        parent = students.get(each.parent, student)
        students[each.number] = parent if each.action is None else method.evolve(parent, each.action)
        architecture = students[each.number].backbone.architecture
        cost = method.backbone_cost(architecture, size)
        score, best = thin.best({size: made_up_ap(cost, each.teacher)}, float(cost.macs_mmdet))
        measured = {"score": score, "cost": float(cost.macs_mmdet), "resolution": best}
        yield {"architecture": architecture.to_dict(), **measured}


# %%
for name, listed in (("Algorithm 1", "best"), ("random search", "latest")):
    students = {}
    history = method.hill_climb(space, SearchSettings(budget=60, listed=listed), made_up, seed=0)
    best = history.best()
    plt.plot(history.scores(), label=name)
    print(f"{name}: {best.student} under {best.teacher}, {best.cost / thin.base_cost:.2f} of the cost")
plt.xlabel("pairs")
plt.ylabel("best score, made up")
plt.legend()
plt.show()

# %% [markdown]
# ## All of it, at smoke scale
#
# Base detector, teacher pool and a search of four pairs, in seconds, on 32 images. **Its numbers mean nothing**; the
# steps are those of every scale.

# %%
options = Options(data="scenes:train=64,val=16", out=tempfile.mkdtemp(), device="cpu")
study = JointDetNASStudy(options, pairs=4)
with contextlib.redirect_stderr(io.StringIO()):
    searched, both = study.search(), {"base": study.base(), "upgraded": study.upgraded()}
for step in searched["steps"]:
    print(f"{step['pair']}, from {step['parent']}: {step['action']}, {step['score']:.5f}")

# %%
shown = {"AP, points": ("AP", 100), "AP50, points": ("AP50", 100), "MMACs": ("macs_mmdet", 1e-6)}
shown |= {"of the backbone": ("backbone_macs_mmdet", 1e-6), "parameters, thousands": ("params", 1e-3)}
rows = {name: {head: scale * each[key] for head, (key, scale) in shown.items()} for name, each in both.items()}
display(pd.DataFrame(rows).round(2))

# %% [markdown]
# ## The results
#
# What `python -m joint_detnas.reproduce --scale nano --seeds 6 --publish` committed to `results/nano/joint_detnas`:
# each table beside the paper's and each figure, then the verdict on each claim by the rule that was written before
# the runs (`joint_detnas/exhibits.py`).

# %%
folder = Path(sys.path[0]) / "results" / "nano" / "joint_detnas"
for note in notes(folder):
    display(Markdown(note))
for file in (folder / f"{exhibit.name}.json" for exhibit in EXHIBITS):
    if file.is_file():
        display(Shown(ExhibitResult.load(file)))

# %%
claims, _ = find_claims([folder])
display(Markdown(scoreboard([claim for claim in claims if len(claim["seeds"]) > 1])))
