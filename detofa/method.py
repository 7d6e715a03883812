"""DetOFA: Efficient Training of Once-for-All Networks for Object Detection using Path Filter.

Sakuma, Ishii, Narihira; ICCV Workshops 2023. The whole method in the paper's order:

    Table 1        the search space A, and CompOFA*'s coupling of it          Operations
    Section 3.1.1  the path filter g(a; theta_p), Equation 3                  tokenise, positional_encoding, PathFilter
    Section 3.1.2  its FLOPs-bounded loss (Equations 4, 5) and its training   flops_bounded_loss, train_filter
    Section 3.2    operation pruning and path pruning                         prune_operations, PathSampler
    Algorithm 1    supernet training with search space pruning (Equation 1)   algorithm_1
    Section 3.3    the best path for a budget (Equation 2)                    search
    Section 4.2    OFA with progressive shrinking, to compare with            progressive_shrinking

Words: a *path* a is one sub-network, a row of choice indices (detofa.space); a *layer* is a bottleneck, a *block* is
what the paper calls a block, a run of layers of one stride; an *operation* is what one layer may be: the (D, W) of its
block and its own E. *FLOPs* in the paper is any cost here, a `Constraint`; the tables use multiply-accumulates of the
backbone. What the paper leaves open is a setting, listed in detofa/README.md.

Command:  python -m detofa.train --help
"""

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from common.evaluate.subnetworks import Evaluator
from common.models.architectures import OFAResNetArchitecture
from common.models.centernet import CenterNet
from common.models.divisor import divisor
from common.plain import InputError
from common.search.executors import evaluate_all
from common.settings import Optimisation, Parallel
from common.train import distributed
from common.train.loop import FitReport, Step, StepLosses, Training, fit
from common.train.run_folder import Run
from common.train.shrinking import shrink
from detofa.presets import Elastic, FilterSettings, Phase, PruningSettings, ShrinkingSettings
from detofa.space import Constraint, EvolutionResult, EvolutionSettings, NoPath, OFAResNetSpace, evolve

if TYPE_CHECKING:
    from detofa.study import DetOFAStudy

Costs = dict[str, dict[str, float]]
"""What each part of a training took: part -> "seconds" of wall clock, "cpu_seconds", "samples" where it trained."""

# ------------------------------------------------------------------------------------------------------------------
# The search space: Table 1
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Operations:
    """The operations that a search space still has: A with all of them, the pruned space with fewer.

    allowed: (L, D, W, E) bool; [l, d, w, e] says whether layer l may have expand ratio e in a block of depth d and
    width w. A layer that depth d drops has no operation there: it is the skip connection.
    """

    space: OFAResNetSpace
    allowed: np.ndarray

    @staticmethod
    def all(space: OFAResNetSpace) -> "Operations":
        """OFA's space, first row of Table 1: every D, W and E."""
        position = space.layer_index_in_stage
        base = np.asarray(space.base_depths)[space.layer_stage]
        present = position[:, None] < base[:, None] + np.asarray(space.depths)[None, :]  # (L, D)
        shape = (*present.shape, len(space.widths), len(space.expands))
        return Operations(space, np.broadcast_to(present[:, :, None, None], shape).copy())

    @staticmethod
    def compound(space: OFAResNetSpace) -> "Operations":
        """CompOFA*, second row of Table 1: a block's depth and width rise together."""
        coupled = np.zeros((len(space.depths), len(space.widths), 1), dtype=bool)
        coupled[tuple(zip(*space.pairs(coupled=True), strict=True))] = True
        return Operations(space, Operations.all(space).allowed & coupled)

    def block_choices(self, block: int) -> np.ndarray:
        """(D, W) bool: the pairs under which every layer of the block that is there has an operation left."""
        layers = np.flatnonzero(self.space.layer_stage == block)
        possible = self.allowed[layers].any(axis=3)  # (layers, D, W)
        dropped = ~Operations.all(self.space).allowed[layers].any(axis=3)
        return (possible | dropped).all(axis=0)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, C) int8 paths a ~ U: each block's (D, W) uniform among those left, then each layer's E likewise."""
        return self.space.canonical(self.draw(count, generator))

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """As `sample`, but dropped layers have a drawn E too: what they get when another depth brings them back."""
        space = self.space
        paths = space.sample(count, generator)
        for block in range(len(space.base_depths)):
            pairs = np.argwhere(self.block_choices(block))
            chosen = pairs[generator.integers(len(pairs), size=count)]
            paths[:, space.depth_columns][:, block], paths[:, space.width_columns][:, block] = chosen.T
        expands = paths[:, space.expand_columns]
        for layer in range(expands.shape[1]):
            options = self.allowed[layer, *self._block_of(layer, paths)]  # (count, E)
            options = options | ~options.any(axis=1, keepdims=True)
            expands[:, layer] = (generator.random(options.shape) * options).argmax(axis=1)
        return paths

    def contains(self, paths: np.ndarray) -> np.ndarray:
        """(P,) bool: whether all layers of a path are operations that are left."""
        active, expands = self.space.active_layers(paths), paths[:, self.space.expand_columns]
        inside = np.ones(len(paths), dtype=bool)
        for layer in range(expands.shape[1]):
            inside &= self.allowed[layer, *self._block_of(layer, paths), expands[:, layer]] | ~active[:, layer]
        return inside

    def size(self) -> int:
        """Exact number of paths (of the backbone's blocks)."""
        total = 1
        for block in range(len(self.space.base_depths)):
            layers = np.flatnonzero(self.space.layer_stage == block)
            total *= sum(
                int(np.prod([max(1, self.allowed[layer, d, w].sum()) for layer in layers], dtype=object))
                for d, w in np.argwhere(self.block_choices(block))
            )
        return total

    def _block_of(self, layer: int, paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        block = self.space.layer_stage[layer]
        return paths[:, self.space.depth_columns][:, block], paths[:, self.space.width_columns][:, block]


def sample_per_bucket(
    operations: Operations, constraint: Constraint, per_bucket: int, generator: np.random.Generator, draws: int = 4
) -> np.ndarray:
    """Algorithm 1, line 3: `per_bucket` different paths of every cost bucket, drawn uniformly within it.

    Buckets that `draws` rounds of uniform paths do not fill (the dearest holds 2 in a million of the paper's space) are
    filled by random walks; one that the space has no path in stays empty. Returns (P, C) int8, ordered by bucket.
    """
    kept: list[dict[bytes, np.ndarray]] = [{} for _ in range(constraint.buckets)]

    def keep(paths: np.ndarray) -> bool:
        """Take what is still wanted; whether every bucket is full now."""
        for path, bucket in zip(paths, constraint.bucket(paths), strict=True):
            if len(kept[bucket]) < per_bucket:
                kept[bucket].setdefault(path.tobytes(), path)
        return all(len(chosen) == per_bucket for chosen in kept)

    count = min(50_000, 200 * per_bucket * constraint.buckets)
    for _ in range(draws):
        paths = operations.draw(count, generator)
        if keep(operations.space.canonical(paths)):
            break
    for bucket, chosen in enumerate(kept):
        if len(chosen) < per_bucket:
            keep(_walk_into(bucket, operations, constraint, paths, 2 * per_bucket, generator))
    return np.array([path for chosen in kept for path in chosen.values()], dtype=np.int8)


WALK_STEPS = 300


def _walk_into(
    bucket: int, operations: Operations, constraint: Constraint, paths: np.ndarray, walks: int, generator
) -> np.ndarray:
    """Random walks from the `paths` nearest to a bucket; returns those that have arrived, canonical.

    A step redraws a few choices and is taken unless it leads away from the bucket. Inside, every step that stays inside
    is taken, so that a walk wanders there uniformly.
    """
    low, high = constraint.edges[bucket : bucket + 2]

    def distance(paths: np.ndarray) -> np.ndarray:
        cost = constraint.cost(paths)
        return np.where(constraint.bucket(paths) == bucket, 0.0, np.abs(cost - np.clip(cost, low, high)) + 1e-9)

    nearest = np.argsort(distance(paths), kind="stable")[:walks]
    walkers = paths[nearest[np.arange(walks) % len(nearest)]]
    for _ in range(WALK_STEPS):
        redrawn = generator.random(walkers.shape) < 2 / walkers.shape[1]
        moved = np.where(redrawn, operations.draw(walks, generator), walkers)
        taken = operations.contains(moved) & (distance(moved) <= distance(walkers))
        walkers = np.where(taken[:, None], moved, walkers)
    return operations.space.canonical(walkers[distance(walkers) == 0])


# ------------------------------------------------------------------------------------------------------------------
# 3.1.1 Path filter design
# ------------------------------------------------------------------------------------------------------------------

SKIP_CONNECTION = 0  # the token SC


def tokenise(space: OFAResNetSpace, paths: np.ndarray) -> np.ndarray:
    """Layer-wise tokens (P, L): SC = 0 where depth drops the layer, else 1 + its (W, E) pair.

    Block-wise choices are repeated for each layer of the block, as in "W1.0_E0.25 W1.0_E0.35 SC SC".
    """
    if space.elastic_stem:
        raise InputError("the path filter has no token for stem choices (the paper's Table 1 has none): fix the stem")
    width = paths[:, space.width_columns][:, space.layer_stage].astype(np.int64)
    expand = paths[:, space.expand_columns].astype(np.int64)
    return np.where(space.active_layers(paths), 1 + width * len(space.expands) + expand, SKIP_CONNECTION)


def positional_encoding(positions: Iterable[int], dimensions: int) -> Tensor:
    """Sine and cosine of the positions at geometric wavelengths: (len(positions), dimensions).

    Equation 3 as printed is garbled; this is the standard form that the text names ("standard cosine/sine-based").
    """
    position = torch.as_tensor(list(positions), dtype=torch.float32)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, dimensions, 2, dtype=torch.float32) / dimensions)
    angle = position * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class PathFilter(nn.Module):
    """g(a; theta_p): the score of a path among those of its cost bucket (Figure 2); higher means lower loss.

    forward(tokens (P, L) int64, bucket (P,) int64) -> (P,) scores in 0..1.
    """

    def __init__(self, space: OFAResNetSpace, buckets: int, settings: FilterSettings):
        super().__init__()
        dimensions = settings.dimensions
        self.settings = settings
        self.operation_embedding = nn.Embedding(1 + len(space.widths) * len(space.expands), dimensions)
        self.budget_embedding = nn.Embedding(buckets, dimensions)
        position = positional_encoding(range(len(space.layer_stage)), dimensions)
        if settings.block_position:
            position = position + positional_encoding(space.layer_stage, dimensions)
        self.register_buffer("position", position, persistent=False)  # (L, dimensions)
        layer = nn.TransformerEncoderLayer(dimensions, settings.heads, dimensions, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        self.score = nn.Sequential(nn.Linear(dimensions, dimensions), nn.ReLU(), nn.Linear(dimensions, 1), nn.Sigmoid())

    def forward(self, tokens: Tensor, bucket: Tensor) -> Tensor:
        sequence = self.operation_embedding(tokens) + self.position  # (P, L, dimensions)
        if self.settings.budget_condition:
            budget = self.budget_embedding(bucket)[:, None]  # (P, 1, dimensions)
            sequence = torch.cat([budget, sequence], dim=1)
        return self.score(self.encoder(sequence).mean(dim=1)).squeeze(1)


class PathScorer:
    """A trained filter with its space and constraint: paths in, scores out, in float32 wherever it is asked."""

    def __init__(self, path_filter: PathFilter, space: OFAResNetSpace, constraint: Constraint, batch_size: int = 4096):
        self.path_filter, self.space, self.constraint, self.batch_size = path_filter, space, constraint, batch_size

    @torch.inference_mode()
    def __call__(self, paths: np.ndarray) -> np.ndarray:
        """(P, C) paths -> (P,) float64 scores, comparable within a bucket."""
        device = self.path_filter.position.device
        tokens = torch.from_numpy(tokenise(self.space, paths)).to(device)
        buckets = torch.from_numpy(self.constraint.bucket(paths)).to(device)
        self.path_filter.eval()
        parts = zip(tokens.split(self.batch_size), buckets.split(self.batch_size), strict=True)
        with torch.autocast(device.type, enabled=False):  # near ties are common: rounding would decide about paths
            return torch.cat([self.path_filter(*part) for part in parts]).double().cpu().numpy()


# ------------------------------------------------------------------------------------------------------------------
# 3.1.2 Path filter training
# ------------------------------------------------------------------------------------------------------------------


def flops_bounded_loss(scores: Tensor, losses: Tensor, buckets: Tensor, bounded: bool = True) -> Tensor:
    """Equations 4 and 5: mean of max(0, 1 - (g(a) - g(a')))^2 over ordered pairs with loss(a) <= loss(a').

    scores, losses: (P,). buckets: (P,) int64; with `bounded` only pairs of one bucket count. Pairs with t = 0 are
    left out: their hinge is the constant 1, without gradient.
    """
    pairs = losses[:, None] <= losses[None, :]
    pairs = pairs & ~torch.eye(len(losses), dtype=torch.bool, device=losses.device)
    if bounded:
        pairs = pairs & (buckets[:, None] == buckets[None, :])
    hinge = (1 - (scores[:, None] - scores[None, :])).clamp(min=0).square()
    return (hinge * pairs).sum() / pairs.sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class PathLosses:
    """Paths with the validation loss that each had in some supernet: what a filter learns from.

    paths: (P, C) int8. losses: (P,) float64.
    """

    paths: np.ndarray
    losses: np.ndarray

    def split(self, share: float, generator: np.random.Generator) -> tuple["PathLosses", "PathLosses"]:
        """A random `share` of the paths and the rest (the paper: 80 % training, 20 % validation)."""
        order = generator.permutation(len(self.paths))
        first, second = np.split(order, [round(share * len(order))])
        return self[first], self[second]

    def __getitem__(self, index: np.ndarray) -> "PathLosses":
        return PathLosses(self.paths[index], self.losses[index])


@dataclass(frozen=True)
class _FilterBatch:
    """Paths as a filter learns from them; tokens (P, L) int64, buckets (P,) int64, losses (P,) float64."""

    tokens: Tensor
    buckets: Tensor
    losses: Tensor

    @staticmethod
    def of(data: PathLosses, space: OFAResNetSpace, constraint: Constraint, device: torch.device | str):
        arrays = tokenise(space, data.paths), constraint.bucket(data.paths), data.losses
        return _FilterBatch(*(torch.from_numpy(array).to(device) for array in arrays))


class _FilterBatches:
    """Batches of `whole` for the training loop: shuffled by (seed, stage, epoch)."""

    def __init__(self, whole: _FilterBatch, batch_size: int, seed: int):
        self._whole, self._batch_size, self._seed = whole, min(batch_size, len(whole.losses)), seed
        self.steps_per_epoch = max(1, len(whole.losses) // self._batch_size)

    def epoch(self, epoch: int, start: int = 0, stage: str = "") -> Iterator[_FilterBatch]:
        whole, generator = self._whole, np.random.default_rng([self._seed, zlib.crc32(stage.encode()), epoch])
        order = torch.from_numpy(generator.permutation(len(whole.losses)))
        for step in range(start, self.steps_per_epoch):
            index = order[step * self._batch_size : (step + 1) * self._batch_size].to(whole.losses.device)
            yield _FilterBatch(whole.tokens[index], whole.buckets[index], whole.losses[index])


def train_filter(
    run: Run,
    stage: str,
    path_filter: PathFilter,
    data: PathLosses,
    space: OFAResNetSpace,
    constraint: Constraint,
    training: Training,
) -> FitReport:
    """Train `path_filter` in place on 80 % of `data`; it ends with the weights of least loss on the other 20 %.

    In float32, whatever the precision of the supernets.
    """
    settings, seed, device = path_filter.settings, training.seed, training.device
    parts = data.split(0.8, np.random.default_rng([seed, 80]))
    learnt_from, held_out = (_FilterBatch.of(part, space, constraint, device) for part in parts)
    best = f"{stage}-best"

    def losses_of(batch: _FilterBatch) -> Tensor:
        scores = path_filter(batch.tokens, batch.buckets)
        return flops_bounded_loss(scores, batch.losses, batch.buckets, settings.bounded_loss)

    def keep_best(epoch: int) -> None:
        path_filter.eval()
        with torch.no_grad():
            loss = float(losses_of(held_out))
        path_filter.train()
        unranked = loss == 0.0  # no two held-out paths share a bucket: nothing tells which epoch was the best
        if unranked or not run.has_weights(best) or loss < run.load_weights(best)[1]["loss"]:
            run.save_weights(best, path_filter.state_dict(), {"loss": loss, "epoch": epoch})

    report = fit(
        run,
        stage,
        path_filter,
        _FilterBatches(learnt_from, settings.batch_size, seed),
        lambda batch, step: [{"loss": losses_of(distributed.whole_of(batch))}],  # every pair counts
        replace(training, precision="float32"),
        after_epoch=keep_best,
    )
    path_filter.load_state_dict(run.load_weights(best)[0])
    path_filter.eval()
    return report


def ridge_scores(
    space: OFAResNetSpace, constraint: Constraint, learnt_from: PathLosses, paths: np.ndarray
) -> np.ndarray:
    """(P,) scores of paths by a ridge regression of loss on one-hot tokens, bucket, cost and its square.

    Not in the paper: what a filter has to beat. Its penalty has the weight 1.
    """
    mean, deviation = (measure(constraint.cost(learnt_from.paths)) for measure in (np.mean, np.std))

    def features(paths: np.ndarray) -> np.ndarray:
        kinds = 1 + len(space.widths) * len(space.expands)
        tokens = np.eye(kinds)[tokenise(space, paths)].reshape(len(paths), -1)
        cost = ((constraint.cost(paths) - mean) / deviation)[:, None]
        return np.hstack([tokens, np.eye(constraint.buckets)[constraint.bucket(paths)], cost, cost**2])

    known, level = features(learnt_from.paths), learnt_from.losses.mean()
    gram = known.T @ known + np.eye(known.shape[1])
    return -features(paths) @ np.linalg.solve(gram, known.T @ (learnt_from.losses - level))


# ------------------------------------------------------------------------------------------------------------------
# 3.2 Search space pruning via path filter
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OperationScores:
    """Section 3.2, Figure 7: what the filter thinks of each operation.

    index: (O, 4) int64 rows (layer, D, W, E). score: (O,) mean path score of n paths with the operation inserted.
    cost: (O,) mean cost of those paths.
    """

    index: np.ndarray
    score: np.ndarray
    cost: np.ndarray


def score_operations(
    operations: Operations, scorer: PathScorer, samples: int, generator: np.random.Generator
) -> OperationScores:
    """Insert every operation into `samples` uniform paths and average their scores (n in the paper, unstated)."""
    space = operations.space
    index = np.argwhere(operations.allowed)
    base = operations.draw(samples, generator)
    inserted = np.repeat(base[None], len(index), axis=0)  # (O, samples, C)
    layer, depth, width, expand = index.T
    block, row = space.layer_stage[layer], np.arange(len(index))
    inserted[..., space.depth_columns][row, :, block] = depth[:, None]
    inserted[..., space.width_columns][row, :, block] = width[:, None]
    inserted[..., space.expand_columns][row, :, layer] = expand[:, None]
    paths = space.canonical(inserted.reshape(-1, base.shape[1]))
    shape = (len(index), samples)
    scores = scorer(paths).reshape(shape).mean(axis=1)
    costs = scorer.constraint.cost(paths).reshape(shape).mean(axis=1)
    return OperationScores(index, scores, costs)


def prune_operations(
    operations: Operations,
    scores: OperationScores,
    settings: PruningSettings,
    buckets: int,
    generator: np.random.Generator,
) -> Operations:
    """The three strategies of Section 3.2; returns the space that is left.

    flops: `ratio_bucket` of each cost bucket's operations, at random. score_bucket: the worst `ratio_bucket` of each
    bucket. score_all: the worst `ratio_all` of all, then the worst `ratio_bucket` of what is left in each bucket.
    Buckets here cut the operations' own range of cost into equal widths. A removal that would leave a block without
    any complete (D, W) is passed over, so a path always remains.
    """
    edges = np.linspace(scores.cost.min(), scores.cost.max(), buckets + 1)[1:-1]
    bucket = np.digitize(scores.cost, edges)
    allowed = operations.allowed.copy()
    left = Operations(operations.space, allowed)

    def remove(candidates: np.ndarray, count: int) -> None:
        for candidate in candidates:
            if count <= 0:
                break
            where = tuple(scores.index[candidate])
            allowed[where] = False
            if left.block_choices(operations.space.layer_stage[where[0]]).any():
                count -= 1
            else:
                allowed[where] = True

    if settings.operations == "none":
        return left
    worst_first = np.argsort(scores.score, kind="stable")
    if settings.operations == "flops":
        worst_first = generator.permutation(len(scores.score))
    if settings.operations == "score_all":
        remove(worst_first, round(settings.ratio_all * len(worst_first)))
    for which in range(buckets):
        members = [o for o in worst_first if bucket[o] == which and allowed[tuple(scores.index[o])]]
        remove(np.array(members, dtype=int), round(settings.ratio_bucket * len(members)))
    return left


def path_thresholds(
    operations: Operations, scorer: PathScorer, ratio: float, generator: np.random.Generator, samples: int = 5000
) -> np.ndarray:
    """Algorithm 1, line 6: (buckets,) scores under which the worst `ratio` of a bucket's paths lie.

    Estimated on uniform paths of the pruned space; a bucket without any gets minus infinity.
    """
    constraint = scorer.constraint
    if ratio == 0:
        return np.full(constraint.buckets, -np.inf)
    paths = operations.sample(samples, generator)
    scores, buckets = scorer(paths), constraint.bucket(paths)
    inside = [scores[buckets == bucket] for bucket in range(constraint.buckets)]
    return np.array([np.quantile(s, ratio) if len(s) else -np.inf for s in inside])


@dataclass(frozen=True, eq=False)
class PathSampler:
    """Algorithm 1, lines 10 to 13: a ~ U of the pruned space, drawn again while its score is under the threshold."""

    operations: Operations
    scorer: PathScorer
    thresholds: np.ndarray

    def __call__(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, C) accepted paths; whole groups are scored at once rather than one path at a time."""
        if np.isneginf(self.thresholds).all():
            return self.operations.sample(count, generator)
        accepted: list[np.ndarray] = []
        while sum(map(len, accepted)) < count:
            paths = self.operations.sample(max(4, 2 * count), generator)
            bucket = self.scorer.constraint.bucket(paths)
            accepted.append(paths[self.scorer(paths) >= self.thresholds[bucket]])
        return np.concatenate(accepted)[:count]


# ------------------------------------------------------------------------------------------------------------------
# Algorithm 1: supernet training
# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """What a supernet is trained on: data, loss, and the images that its paths are validated on.

    batches: as `common.train.loop.fit` takes them. losses(outputs, batch) -> dict with "loss". evaluator: D_val.
    """

    batches: object
    losses: Callable
    evaluator: Evaluator


Sampler = Callable[[int, np.random.Generator], np.ndarray]
"""(count, generator) -> (count, C) paths to train."""


def only(path: np.ndarray) -> Sampler:
    """The sampler of one path (C,) alone."""
    return lambda count, generator: np.repeat(path[None], count, axis=0)


def train(run: Run, stage: str, supernet: nn.Module, task: Task, sampler: Sampler, training: Training) -> FitReport:
    """Equation 1: one sampled path a step (Algorithm 1, lines 7 to 16). `supernet.activate(path)` selects it."""

    def step_losses(batch: Any, step: Step) -> Iterator[dict[str, Tensor]]:
        began = time.process_time()
        (path,) = sampler(1, step.generator("path"))
        drawing = torch.tensor(time.process_time() - began)
        supernet.activate(path)
        yield {**task.losses(supernet(batch.images), batch), "drawing_cpu_seconds": drawing}

    return fit(run, stage, supernet, task.batches, step_losses, training)


def took(report: FitReport) -> dict[str, float]:
    """Wall clock, processor time and samples of a training."""
    return {name: getattr(report, name) for name in ("seconds", "cpu_seconds", "samples")}


def validate_paths(
    run: Run,
    purpose: str,
    supernet: nn.Module,
    evaluator: Evaluator,
    paths: np.ndarray,
    how: Parallel = Parallel(),  # noqa: B008 (frozen)
) -> PathLosses:
    """Algorithm 1, line 3: the validation loss of each path, its batch-norm statistics re-estimated first.

    Every result is recorded as a candidate of `run` at once, so an interrupted sampling goes on with the next path; a
    path that cannot be evaluated is recorded with the reason and left out.
    """
    space = supernet.backbone.space

    def key(path: np.ndarray) -> list[str]:
        return [purpose, space.key(path)]

    validate = partial(_validate, supernet, evaluator)
    records = evaluate_all(validate, paths, run, key, how, score=None, label=f"{purpose} paths")
    losses = np.array([record["loss"] if record["status"] == "done" else math.nan for record in records])
    return PathLosses(paths, losses)[np.isfinite(losses)]


def _validate(supernet: nn.Module, evaluator: Evaluator, path: np.ndarray) -> dict[str, float]:
    """Of one path, here or in another process, which then has a supernet of its own."""
    began = time.process_time()
    loss = evaluator.loss(evaluator.recalibrate(supernet.extract(path)))
    if not math.isfinite(loss):
        raise FloatingPointError("the validation loss is not finite")
    return {"loss": loss, "cpu_seconds": time.process_time() - began}


def validated_paths(run: Run, purpose: str, space: OFAResNetSpace) -> PathLosses:
    """The paths that a finished run validated for one purpose, by name, with their losses; `InputError` when there are
    none."""
    records = [record for record in run.candidates(status="done") if record["key"][0] == purpose]
    records.sort(key=lambda record: record["key"])  # in whatever order several processes came to an end
    if not records:
        raise InputError(
            f"{run.path} holds no validated path, for its candidates.jsonl is damaged or missing: delete the folder to "
            "make the run anew"
        )
    paths = np.array([space.from_key(record["key"][1]) for record in records])
    return PathLosses(paths, np.array([record["loss"] for record in records]))


def sample_paths(
    study: "DetOFAStudy",
    run: Run,
    purpose: str,
    supernet: nn.Module,
    task: Task,
    operations: Operations,
    per_bucket: int,
) -> tuple[PathLosses, dict[str, float]]:
    """Algorithm 1, line 3: paths of every cost bucket with their losses, and the seconds that validating them took."""
    generator = np.random.default_rng([study.seed, 3])
    paths = sample_per_bucket(operations, study.constraint, per_bucket, generator)
    losses = validate_paths(run, purpose, supernet, task.evaluator, paths, study.options)
    if not len(losses.paths):
        raise InputError(
            f"none of the {len(paths)} sampled paths could be validated: {run.path / 'candidates.jsonl'} has the "
            "reason for each; --retry-failed tries them again"
        )
    records = [record for record in run.candidates() if record["key"][0] == purpose]
    return losses, {name: sum(record.get(name, 0.0) for record in records) for name in ("seconds", "cpu_seconds")}


def prune(
    operations: Operations, scorer: PathScorer, settings: PruningSettings, operation_samples: int, seed: int
) -> tuple[PathSampler, OperationScores]:
    """Algorithm 1, lines 5 and 6: the sampler of the pruned space, and the scores that it was pruned by."""
    generator = np.random.default_rng([seed, 5])
    scores = score_operations(operations, scorer, operation_samples, generator)
    left = prune_operations(operations, scores, settings, scorer.constraint.buckets, generator)
    thresholds = path_thresholds(left, scorer, settings.ratio_path, generator)
    return PathSampler(left, scorer, thresholds), scores


def pretrain_supernet(study: "DetOFAStudy", run: Run) -> dict[str, Any]:
    """Section 4.1: the supernet as a classifier, its largest path first, then uniform paths; some paths validated.

    A released supernet (`--pretrained`) takes the place of the former, and keeps its weights.
    """
    supernet, task, preset = study.classifier(), study.classification_task, study.preset
    everything, training = Operations.all(study.space), study.training(preset.classification)
    costs: Costs = {}
    if study.released is None:
        costs["full"] = took(train(run, "full", supernet, task, only(study.space.largest()), training))
    else:  # trained on ImageNet already: the backbone stays, only the classifier is fitted to the crops
        supernet.backbone.requires_grad_(False)
    costs["uniform"] = took(train(run, "uniform", supernet, task, everything.sample, training))
    losses, costs["sampling"] = sample_paths(
        study, run, "classification", supernet, task, everything, preset.pretraining_paths
    )
    return {"costs": costs, "paths": len(losses.paths)}


def pretrain_filter(study: "DetOFAStudy", run: Run) -> dict[str, Any]:
    """Section 3.1.2: the path filter, trained on paths of the classification supernet."""
    losses, training = study.validated("classification"), study.training(study.preset.path_filter.pretraining)
    report = train_filter(run, "filter", study.new_filter(), losses, study.space, study.constraint, training)
    return {"costs": {"filter": took(report)}}


def warm_up(study: "DetOFAStudy", run: Run) -> dict[str, Any]:
    """Algorithm 1, lines 2 to 4."""
    supernet, task, preset = study.transferred(study.detector()), study.detection_task, study.preset
    everything = Operations.all(study.space)
    # Line 2: supernet warm-up training, on uniform paths.
    costs = {"warm-up": took(train(run, "warm-up", supernet, task, everything.sample, study.training(preset.warm_up)))}
    # Line 3: uniformly sample m paths for each FLOPs bucket and validate.
    losses, costs["sampling"] = sample_paths(
        study, run, "warm-up", supernet, task, everything, preset.fine_tuning_paths
    )
    # Line 4: fine-tune the path filter, which starts from the pre-trained one.
    path_filter, training = study.filter_of("filter"), study.training(preset.path_filter.fine_tuning)
    report = train_filter(run, "filter", path_filter, losses, study.space, study.constraint, training)
    return {"costs": costs | {"filter": took(report)}, "paths": len(losses.paths)}


SHARED = {"classification": pretrain_supernet, "filter": pretrain_filter, "warm-up": warm_up}
"""The runs that all supernets of a seed build on: what -> make(study, run)."""


def algorithm_1(
    study: "DetOFAStudy", run: Run, pruning: PruningSettings | None, fine_tuning: Optimisation
) -> tuple[CenterNet, Costs]:
    """Algorithm 1 with all that leads to its input: the supernet trained with search space pruning, and what it cost.

    study: networks, data and runs of one seed; `study.shared(what)` makes one of `SHARED` where it is not there yet.
    run: where this supernet is trained. pruning: None leaves out lines 5, 6 and 11 to 13, which is OFA without
    progressive shrinking. fine_tuning: the preset's, unless the supernet is to have the time that another took.
    """
    # Input (`pretrain_supernet`, `pretrain_filter`): supernet weights and path filter, pre-trained on classification.
    study.shared("classification")
    study.shared("filter")
    # Line 1: the space that is searched begins as the whole of A.
    sampler: Sampler = Operations.all(study.space).sample
    # Lines 2 to 4 (`warm_up`): warm-up from the transferred weights, sampled paths, fine-tuning of the filter.
    warmed_up = study.shared("warm-up")["costs"]
    supernet, costs = study.restore(study.detector(), "warm-up", "warm-up"), {"warm-up": warmed_up["warm-up"]}
    if pruning is not None:
        # Lines 5 and 6 (`prune`): operations are pruned by the filter, then each FLOPs bucket gets a score threshold.
        sampler, _ = study.pruned(pruning)
        costs |= {part: warmed_up[part] for part in ("sampling", "filter")}
    # Lines 7 to 16 (`train`): gradient descent on one path a step; `PathSampler` does lines 10 to 13.
    report = train(run, "fine-tuning", supernet, study.detection_task, sampler, study.training(fine_tuning))
    drawing = {"drawing_cpu_seconds": report.losses["drawing_cpu_seconds"] * report.steps}
    return supernet, costs | {"fine-tuning": took(report) | drawing}


# ------------------------------------------------------------------------------------------------------------------
# 3.3 Resource-constraint search
# ------------------------------------------------------------------------------------------------------------------


def search(
    operations: Operations, scorer: PathScorer, budget: float, settings: EvolutionSettings, seed: int
) -> EvolutionResult:
    """Equation 2: the path of best score with cost at most `budget`, by evolution with the filter as predictor.

    Scores are comparable within a bucket only, and a dearer bucket holds the better paths: so the search is for the
    best path of the dearest bucket that the budget pays for (`affordable_bucket`), or of the next one where that has
    no such path.

    Raises `NoPath` when no path of the space costs so little.
    """
    constraint, space = scorer.constraint, operations.space
    if budget < constraint.lowest:
        raise NoPath(
            f"no path has {constraint.name} <= {budget:.4g} {constraint.unit}: give a budget between "
            f"{constraint.lowest:.4g} (the cheapest path) and {constraint.highest:.4g} (the dearest)"
        )
    generator = np.random.default_rng([seed, 33])
    dearest = affordable_bucket(operations, constraint, budget, np.random.default_rng([seed, 34]))

    def feasible(paths: np.ndarray) -> np.ndarray:
        return (constraint.cost(paths) <= budget) & operations.contains(paths)

    def rank(paths: np.ndarray) -> np.ndarray:
        # A score lies in 0..1, so the bucket before the point orders buckets and the score orders within one.
        bucket = constraint.bucket(paths)
        return np.where(bucket <= dearest, bucket, -bucket) + scorer(paths)

    radices = np.array([max(choice) + 1 for choice in space.choices])
    return evolve(operations.draw, space.canonical, feasible, rank, radices, settings, generator)


def affordable_bucket(
    operations: Operations, constraint: Constraint, budget: float, generator: np.random.Generator, share: float = 0.1
) -> int:
    """The dearest bucket in which at least `share` of the paths cost no more than `budget`; 0 where there is none.

    A budget just above the end of a bucket pays for few paths of the next one, and one of latency for those of a
    bucket of FLOPs that happen to be fast: a search among these few would pass over better ones.
    """
    bucketed, enough = constraint.buckets_of or constraint, 40  # paths, to tell such a share by
    drawn = operations.draw(5000, generator)
    for bucket in range(constraint.buckets - 1, 0, -1):
        if bucketed is constraint and budget <= constraint.edges[bucket]:
            continue  # all of it costs more
        paths = drawn[constraint.bucket(drawn) == bucket]
        if len(paths) < enough:
            paths = _walk_into(bucket, operations, bucketed, drawn, enough, generator)
        if len(paths) and (constraint.cost(paths) <= budget).mean() >= share:
            return bucket
    return 0


def best_affordable(losses: PathLosses, constraint: Constraint, budget: float) -> np.ndarray | None:
    """A random search: of the validated paths that cost at most `budget` the one of least loss; None without any."""
    affordable = np.flatnonzero(constraint.cost(losses.paths) <= budget)
    return losses.paths[affordable[losses.losses[affordable].argmin()]] if len(affordable) else None


# ------------------------------------------------------------------------------------------------------------------
# 4.2 What it is compared with
# ------------------------------------------------------------------------------------------------------------------
#
# OFA without shrinking is uniform sampling of the whole space, CompOFA* uniform sampling of the coupled space, the full
# net its largest path alone: `train` with another sampler. OFA's progressive shrinking (Cai et al., ICLR 2020) starts
# from the full net; depth, then expand ratio, then width become elastic, each phase distilling from the full net.


def phase_operations(space: OFAResNetSpace, elastic: tuple[Elastic, ...]) -> Operations:
    """The part of the space that a phase samples: choices outside `elastic` only at their largest."""
    allowed = Operations.all(space).allowed
    for axis, name in enumerate(("depth", "width", "expand"), start=1):
        if name not in elastic:
            largest = np.arange(allowed.shape[axis]) == allowed.shape[axis] - 1
            allowed &= np.expand_dims(largest, tuple(other for other in range(4) if other != axis))
    return Operations(space, allowed)


def all_widths(space: OFAResNetSpace, elastic: tuple[Elastic, ...]) -> list[OFAResNetArchitecture]:
    """Networks of maximal depth in which every width stands that a phase's sub-networks have, in each layer."""
    path, networks = space.largest(), []
    for width in space.choices[space.width_columns.start] if "width" in elastic else path[space.width_columns][:1]:
        for expand in space.choices[-1] if "expand" in elastic else path[-1:]:
            path[space.width_columns], path[space.expand_columns] = width, expand
            networks.append(space.architecture(path))
    return networks


def centernet_distillation(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss of a CenterNet's maps against a teacher's, float32 scalars.

    heatmap: binary cross-entropy with the teacher's probabilities as soft targets, summed over the map and divided by
    the teacher's mass, as the focal loss is divided by the number of objects. size, offset: L1 weighted by the
    teacher's strongest class probability at the cell. OFA distils a classifier; the form for maps is ours.
    """
    probability = teacher["heatmap"].float().sigmoid()
    mass = divisor(probability.sum())
    entropy = nn.functional.binary_cross_entropy_with_logits(student["heatmap"].float(), probability, reduction="none")
    # The teacher's own entropy is a constant; without it the loss is 0 where the student agrees.
    constant = nn.functional.binary_cross_entropy_with_logits(teacher["heatmap"].float(), probability, reduction="none")
    objectness = probability.amax(dim=1, keepdim=True)  # (B, 1, H/4, W/4)
    weight = divisor(objectness.sum())

    def distance(name: str) -> Tensor:
        return ((student[name].float() - teacher[name].float()).abs() * objectness).sum() / (2 * weight)

    losses = {"heatmap": (entropy - constant).sum() / mass, "size": distance("size"), "offset": distance("offset")}
    return {"loss": losses["heatmap"] + 0.1 * losses["size"] + losses["offset"], **losses}


def progressive_shrinking(
    run: Run,
    supernet: CenterNet,
    full_net: nn.Module,
    task: Task,
    settings: ShrinkingSettings,
    training: Training,
) -> list[FitReport]:
    """Train `supernet`, which holds the weights of the trained `full_net`, through all phases; a report for each.

    full_net: the static teacher, in evaluation mode, its batch-norm statistics its own. Channels are sorted by
    importance before each phase; what the phases before have trained computes the same after it.
    """
    space = supernet.backbone.space
    trained = dict(zip(settings.phases, [(), *(phase.elastic for phase in settings.phases)], strict=False))

    def step_losses_of(phase: Phase) -> StepLosses:
        operations = phase_operations(space, phase.elastic)

        def step_losses(batch: Any, step: Step) -> Iterator[dict[str, Tensor]]:
            with torch.no_grad():
                soft = full_net(batch.images)
            for path in operations.sample(settings.networks_a_step, step.generator("path")):
                supernet.activate(path)
                outputs = supernet(batch.images)
                losses = task.losses(outputs, batch)
                taught = centernet_distillation(outputs, soft)["loss"]
                total = (losses["loss"] + settings.distillation_weight * taught) / settings.networks_a_step
                yield {**losses, "loss": total, "distillation": taught}

        return step_losses

    def sort(phase: Phase) -> None:
        supernet.sort_channels(all_widths(space, trained[phase]))

    return shrink(run, supernet, task.batches, settings.phases, step_losses_of, training, sort)
