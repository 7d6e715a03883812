"""DetOFA's method against plain loops written from the paper: space, filter, pruning, sampling, search, shrinking."""

import dataclasses
import inspect
import itertools
import math
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from common.batch import Batch, ClassificationBatch
from common.models.centernet import CenterNet, centernet_losses
from common.models.classifier import Classifier, classification_losses
from common.models.ofa_resnet import OFAResNet
from common.plain import InputError
from common.settings import Optimisation
from common.train.loop import Training
from common.train.run_folder import Run
from detofa import method
from detofa.method import (
    Operations,
    OperationScores,
    PathFilter,
    PathLosses,
    PathSampler,
    PathScorer,
    Task,
    affordable_bucket,
    all_widths,
    centernet_distillation,
    flops_bounded_loss,
    path_thresholds,
    phase_operations,
    positional_encoding,
    progressive_shrinking,
    prune,
    prune_operations,
    sample_per_bucket,
    score_operations,
    search,
    tokenise,
    train,
    train_filter,
    validate_paths,
    validated_paths,
)
from detofa.presets import FilterSettings, Phase, PruningSettings, ShrinkingSettings
from detofa.space import Constraint, CostTable, EvolutionSettings, NoPath, OFAResNetSpace
from tests.detofa.tiny_space import EVERY_PATH, TINY

PAPER = OFAResNetSpace()
THIN = dataclasses.replace(PAPER, base_depths=(1, 1, 1, 1), stage_widths=(32, 64, 96, 128), channel_multiple=2)


def test_all_that_the_header_names_is_there_in_the_papers_order():
    """Every section, equation, table and algorithm of the header has its function, and these follow one another."""
    rows = re.findall(r"^    (?:Table|Section|Algorithm) .*  (\S.*)$", method.__doc__, re.MULTILINE)
    names = [name.strip() for row in rows for name in row.split(",")]
    lines = [inspect.getsourcelines(getattr(method, name))[1] for name in names]
    assert len(rows) == 7
    assert lines == sorted(lines)
    algorithm = inspect.getsource(method.algorithm_1) + inspect.getsource(method.warm_up)
    ranges = re.findall(r"[Ll]ines? (\d+)(?: (?:and|to) (\d+))?", algorithm)
    spoken_of = {line for first, last in ranges for line in range(int(first), int(last or first) + 1)}
    assert spoken_of >= set(range(1, 17))


def _constraint(space, table=None, name="macs") -> Constraint:
    return Constraint.of(name, "MAC", table or CostTable.macs(space, 64))


def _latency(space):
    """Made-up milliseconds of each block."""
    return CostTable(space, lambda shape: 1 + shape.macs**0.5, 64)


class Scorer:
    """A scorer of a known function: a fixed pseudo-random number in 0..1 for each path."""

    def __init__(self, space, constraint, seed=0):
        self.space, self.constraint = space, constraint
        self.weights = np.random.default_rng(seed).normal(size=len(space.columns))
        self.seen = []

    def __call__(self, paths):
        self.seen.append(np.array(paths))
        return 1 / (1 + np.exp(-0.3 * (paths @ self.weights)))


# --- Table 1: operations ----------------------------------------------------------------------------------------------


def _naive_contains(operations: Operations, path: np.ndarray) -> bool:
    space, layer = operations.space, 0
    for block in range(4):
        d, w = path[space.depth_columns][block], path[space.width_columns][block]
        for index in range(space.max_depths[block]):
            there = index < space.base_depths[block] + space.depths[d]
            if there and not operations.allowed[layer, d, w, path[space.expand_columns][layer]]:
                return False
            layer += 1
    return True


def _random_pruning(space, generator, share) -> Operations:
    operations = Operations.all(space)
    return Operations(space, operations.allowed & (generator.random(operations.allowed.shape) >= share))


def test_compound_couples_depth_and_width():
    compound = Operations.compound(PAPER)
    paths = compound.sample(500, np.random.default_rng(0))
    assert (paths[:, PAPER.depth_columns] == paths[:, PAPER.width_columns]).all()
    assert {tuple(row) for row in paths[:, PAPER.depth_columns]} >= {(0, 0, 0, 0), (2, 2, 2, 2)}
    assert compound.size() == PAPER.size(coupled=True)
    assert Operations.all(PAPER).size() == PAPER.size()
    with pytest.raises(InputError, match="one to one"):
        Operations.compound(dataclasses.replace(PAPER, widths=(0.5, 1.0)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 0.6))
def test_size_contains_and_samples_agree_with_enumeration(seed, share):
    generator = np.random.default_rng(seed)
    operations = _random_pruning(TINY, generator, share)
    inside = operations.contains(EVERY_PATH)
    some = generator.integers(len(EVERY_PATH), size=40)
    assert inside[some].tolist() == [_naive_contains(operations, EVERY_PATH[i]) for i in some]
    assert operations.size() == inside.sum()
    if all(operations.block_choices(block).any() for block in range(4)):
        paths = operations.sample(50, generator)
        assert paths.dtype == np.int8
        assert operations.contains(paths).all()
        assert (TINY.canonical(paths) == paths).all()
    else:
        assert operations.size() == 0


def test_samples_are_uniform_over_pairs_and_expand_ratios():
    operations = Operations.all(TINY)
    operations.allowed[1, 1, 0] = False
    operations.allowed[2, 1, 1, 0] = False  # block 1, first layer, depth 1, width 1: only the second ratio
    paths = operations.sample(30_000, np.random.default_rng(0))
    pairs = Counter(zip(paths[:, TINY.depth_columns][:, 0], paths[:, TINY.width_columns][:, 0], strict=True))
    assert set(pairs) == {(0, 0), (0, 1), (1, 1)}
    assert max(abs(count / 30_000 - 1 / 3) for count in pairs.values()) < 0.012
    expands = paths[:, TINY.expand_columns]
    assert abs(expands[:, 0].mean() - 0.5) < 0.012
    narrowed = (paths[:, TINY.depth_columns][:, 1] == 1) & (paths[:, TINY.width_columns][:, 1] == 1)
    assert (expands[narrowed, 2] == 1).all()
    assert abs(expands[~narrowed, 2].mean() - 0.5) < 0.012
    assert abs(narrowed.mean() - 0.25) < 0.012


# --- constraints ------------------------------------------------------------------------------------------------------


TABLES = {"macs": CostTable.macs(TINY, 64), "params": CostTable.params(TINY), "latency": _latency(TINY)}


@pytest.mark.parametrize("kind", TABLES)
def test_any_additive_cost_makes_buckets_of_equal_width(kind):
    constraint = _constraint(TINY, TABLES[kind], name=kind)
    costs = constraint.cost(EVERY_PATH)
    assert costs.dtype == np.float64
    assert (constraint.lowest, constraint.highest) == (costs.min(), costs.max())
    width = (constraint.highest - constraint.lowest) / 5
    expected = [max(0, math.ceil((cost - constraint.lowest) / width - 1e-12) - 1) for cost in costs]
    assert (constraint.bucket(EVERY_PATH) == expected).mean() > 0.999  # but for rounding at the very edges
    assert set(constraint.bucket(EVERY_PATH)) == {0, 1, 2, 3, 4}
    assert [constraint.budget(share) for share in (0.0, 1.0)] == [constraint.lowest, constraint.highest]
    assert constraint.budget(0.25) == pytest.approx(constraint.lowest + 1.25 * width)


def test_quantile_buckets_hold_as_many_uniform_paths_each():
    constraint = Constraint.of("macs", "MAC", CostTable.macs(THIN, 64), "quantile")
    paths = THIN.sample(20_000, np.random.default_rng(5))
    assert np.bincount(constraint.bucket(paths)) == pytest.approx(4000, rel=0.06)
    costs = np.sort(constraint.cost(paths))
    assert [constraint.budget(share) for share in (0.2, 0.4, 0.8)] == pytest.approx(
        costs[[4000, 8000, 16000]], rel=0.02
    )
    assert [constraint.budget(share) for share in (0.0, 1.0)] == list(CostTable.macs(THIN, 64).range())


def test_paths_a_bucket_are_different_and_in_their_bucket():
    constraint = _constraint(THIN)
    operations = Operations.all(THIN)
    paths = sample_per_bucket(operations, constraint, 7, np.random.default_rng(0))
    assert paths.shape == (35, len(THIN.columns))
    assert paths.dtype == np.int8
    assert constraint.bucket(paths).tolist() == np.repeat(range(5), 7).tolist()
    assert len(np.unique(paths, axis=0)) == 35
    assert operations.contains(paths).all()
    first, again, other = (
        sample_per_bucket(Operations.all(TINY), _constraint(TINY), 1, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert (again == first).all()
    assert not (other == first).all()


def test_a_bucket_without_enough_paths_stays_shorter():
    only = TINY.smallest()
    cost = lambda paths: np.where((paths == only).all(axis=1), 1.0, 0.3 * paths[:, 3])  # noqa: E731
    constraint = Constraint("made up", "", cost, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    assert np.bincount(constraint.bucket(EVERY_PATH), minlength=5)[1:].tolist() == [len(EVERY_PATH) * 2 // 3, 0, 0, 1]
    paths = sample_per_bucket(Operations.all(TINY), constraint, 6, np.random.default_rng(0), draws=2)
    assert np.bincount(constraint.bucket(paths), minlength=5).tolist() == [6, 6, 0, 0, 1]
    assert (paths[-1] == only).all()


# --- 3.1.1 the filter's input -----------------------------------------------------------------------------------------


def test_tokens_of_the_papers_example():
    """Section 3.1.1: (D, W, E) = (0, 1.0, (.25, .35)) -> "W1.0_E0.25 W1.0_E0.35 SC SC"."""
    path = PAPER.smallest()
    path[PAPER.width_columns] = [2, 0, 0, 0]
    path[PAPER.expand_columns][:2] = [1, 2]
    names = {0: "SC"} | {
        1 + 3 * w + e: f"W{width}_E{expand}"
        for (w, width), (e, expand) in itertools.product(enumerate(PAPER.widths), enumerate(PAPER.expands))
    }
    tokens = tokenise(PAPER, path[None])
    assert tokens.shape == (1, 18)
    assert " ".join(names[token] for token in tokens[0, :4]) == "W1.0_E0.25 W1.0_E0.35 SC SC"
    assert len(names) == 10


def test_tokens_tell_every_path_apart():
    tokens = tokenise(TINY, EVERY_PATH)
    assert tokens.dtype == np.int64
    assert (tokens.min(), tokens.max()) == (0, len(TINY.widths) * len(TINY.expands))
    assert len(np.unique(tokens, axis=0)) == len(EVERY_PATH)
    elastic = dataclasses.replace(TINY, elastic_stem=True)
    with pytest.raises(InputError, match="fix the stem"):
        tokenise(elastic, elastic.smallest()[None])


def test_positional_encoding_equals_its_formula():
    found = positional_encoding([0, 3, 17], 8)
    for row, position in enumerate([0, 3, 17]):
        for i in range(4):
            angle = position / 10000 ** (2 * i / 8)
            assert found[row, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[row, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


SMALL_FILTER = FilterSettings(dimensions=16, layers=1, heads=2, batch_size=64)


def _filter(device="cpu", **changes) -> PathFilter:
    torch.manual_seed(0)
    return PathFilter(TINY, 5, dataclasses.replace(SMALL_FILTER, **changes)).to(device).eval()


@torch.no_grad()
def test_the_ablations_change_what_they_should():
    tokens = torch.from_numpy(tokenise(TINY, TINY.sample(40, np.random.default_rng(0))))
    buckets = torch.arange(40) % 5
    whole, no_budget, no_block = _filter(), _filter(budget_condition=False), _filter(block_position=False)
    assert not torch.allclose(whole(tokens, buckets), whole(tokens, (buckets + 1) % 5), atol=1e-6)
    assert torch.equal(no_budget(tokens, buckets), no_budget(tokens, (buckets + 1) % 5))
    layers = positional_encoding(range(8), 16)
    blocks = positional_encoding([0, 0, 1, 1, 2, 2, 3, 3], 16)
    torch.testing.assert_close(whole.position, layers + blocks)
    torch.testing.assert_close(no_block.position, layers)
    no_block.load_state_dict(whole.state_dict())
    assert not torch.allclose(whole(tokens, buckets), no_block(tokens, buckets), atol=1e-6)


def test_the_published_filter():
    path_filter = PathFilter(PAPER, 5, FilterSettings())
    assert path_filter.operation_embedding.weight.shape == (10, 128)
    assert path_filter.budget_embedding.weight.shape == (5, 128)
    assert len(path_filter.encoder.layers) == 3
    assert {layer.self_attn.num_heads for layer in path_filter.encoder.layers} == {4}
    assert {layer.linear1.out_features for layer in path_filter.encoder.layers} == {128}
    assert [layer.weight.shape for layer in path_filter.score if hasattr(layer, "weight")] == [(128, 128), (1, 128)]


def test_scores_lie_between_0_and_1_and_do_not_depend_on_the_batch(device):
    constraint, path_filter = _constraint(TINY), _filter(device)
    paths = TINY.sample(50, np.random.default_rng(0))
    whole = PathScorer(path_filter, TINY, constraint)(paths)
    assert whole.dtype == np.float64
    assert ((whole > 0) & (whole < 1)).all()
    assert whole.std() > 0
    np.testing.assert_allclose(PathScorer(path_filter, TINY, constraint, batch_size=7)(paths), whole, rtol=1e-5)
    tokens, buckets = (
        torch.from_numpy(values).to(device) for values in (tokenise(TINY, paths), constraint.bucket(paths))
    )
    one_by_one = [path_filter(tokens[at : at + 1], buckets[at : at + 1]).item() for at in range(50)]
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-5)


# --- 3.1.2 training ---------------------------------------------------------------------------------------------------


def _naive_loss(scores, losses, buckets, bounded) -> float:
    """Equations 4 and 5 over the ordered pairs with t = 1."""
    values = []
    for a, b in itertools.permutations(range(len(scores)), 2):
        if losses[a] <= losses[b] and (not bounded or buckets[a] == buckets[b]):
            values.append(max(0.0, 1.0 - (scores[a] - scores[b])) ** 2)
    return sum(values) / max(1, len(values))


@pytest.mark.parametrize("bounded", [True, False])
def test_flops_bounded_loss_equals_a_loop_over_pairs(bounded, device):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(24, generator=generator, dtype=torch.float64)
    losses = torch.randint(12, (24,), generator=generator).double()  # with ties
    buckets = torch.randint(3, (24,), generator=generator)
    expected = _naive_loss(scores.tolist(), losses.tolist(), buckets.tolist(), bounded)
    found = flops_bounded_loss(scores.to(device), losses.to(device), buckets.to(device), bounded)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_filter_trains_and_decides_in_float32_inside_autocast(run):
    constraint, seen = _constraint(TINY), set()
    path_filter, data = _filter("cpu"), _ranking(constraint, 20)
    path_filter.score[0].register_forward_hook(lambda *passed: seen.add(passed[-1].dtype))
    steps = Optimisation(epochs=1, optimiser="adam", policy="constant")
    train_filter(run, "filter", path_filter, data, TINY, constraint, Training(steps, precision="bfloat16"))
    scorer = PathScorer(path_filter, TINY, constraint)
    with torch.autocast("cpu", torch.bfloat16):
        inside = scorer(data.paths)
    assert (inside == scorer(data.paths)).all()
    assert seen == {torch.float32}


def test_the_gradient_raises_the_better_path_and_leaves_other_buckets_alone():
    scores = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    flops_bounded_loss(scores, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1])).backward()
    assert scores.grad.tolist() == [-2.0, 2.0, 0.0]
    scores.grad = None
    flops_bounded_loss(scores, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1]), bounded=False).backward()
    assert (scores.grad[0] < 0) & (scores.grad[2] > 0)
    scores = torch.rand(8, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda s: flops_bounded_loss(s, torch.arange(8.0), torch.arange(8) % 2), scores)


def test_ridge_scores_equal_a_loop_over_paths():
    constraint, data = _constraint(TINY), _ranking(_constraint(TINY), 15)
    learnt, paths = PathLosses(data.paths[::2], data.losses[::2]), data.paths[1::2]
    cost = constraint.cost(learnt.paths)

    def features(path):
        row = [0.0] * 5 * len(TINY.layer_stage)
        for layer, token in enumerate(tokenise(TINY, path[None])[0]):
            row[5 * layer + token] = 1.0
        scaled = (constraint.cost(path[None])[0] - cost.mean()) / cost.std()
        return [*row, *(float(constraint.bucket(path[None])[0] == bucket) for bucket in range(5)), scaled, scaled**2]

    known = np.array([[*features(path)] for path in learnt.paths])
    ridge = np.vstack([known, np.eye(known.shape[1])])  # as so many more rows that ask for weights of 0
    targets = np.concatenate([learnt.losses - learnt.losses.mean(), np.zeros(known.shape[1])])
    weights = np.linalg.lstsq(ridge, targets, rcond=None)[0]
    expected = [-np.dot(features(path), weights) for path in paths]
    assert method.ridge_scores(TINY, constraint, learnt, paths) == pytest.approx(expected)


def test_a_batch_without_a_pair_has_no_loss_and_no_nan():
    scores = torch.rand(3, requires_grad=True)
    loss = flops_bounded_loss(scores, torch.arange(3.0), torch.arange(3))
    loss.backward()
    assert (loss.item(), scores.grad.tolist()) == (0, [0, 0, 0])


def test_a_split_keeps_every_path_once_with_its_loss():
    training, validation = PathLosses(EVERY_PATH[:50], np.arange(50.0)).split(0.8, np.random.default_rng(0))
    losses = np.concatenate([training.losses, validation.losses])
    assert (len(training.paths), len(validation.paths), sorted(losses)) == (40, 10, list(range(50)))
    assert (np.concatenate([training.paths, validation.paths]) == EVERY_PATH[losses.astype(int)]).all()
    assert not (np.diff(losses) > 0).all(), "drawn at random"


def _ranking(constraint, count=60, seed=0) -> PathLosses:
    """Within a bucket the dearer path is better; every bucket has its own level, which only bounding removes."""
    generator = np.random.default_rng(seed)
    paths = sample_per_bucket(Operations.all(TINY), constraint, count, generator, draws=2)
    span = constraint.highest - constraint.lowest
    share = (constraint.cost(paths) - constraint.lowest) / span
    level = np.array([3.0, -2.0, 5.0, 0.0, -7.0])[constraint.bucket(paths)]
    return PathLosses(paths, level - 10 * share + generator.normal(0, 0.05, len(paths)))


def _tau_within_buckets(scorer, data) -> float:
    buckets, scores = scorer.constraint.bucket(data.paths), scorer(data.paths)
    return float(np.mean([kendalltau(scores[buckets == b], -data.losses[buckets == b])[0] for b in set(buckets)]))


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run", {}) as opened:
        yield opened


def test_the_filter_learns_to_rank_within_buckets(run, device):
    constraint = _constraint(TINY)
    data, fresh = _ranking(constraint, 120), _ranking(constraint, 40, seed=1)
    path_filter = _filter(device)
    untrained = _tau_within_buckets(PathScorer(path_filter, TINY, constraint), fresh)
    optimisation = Optimisation(epochs=50, optimiser="adam", learning_rate=3e-3, policy="cosine")
    report = train_filter(run, "filter", path_filter, data, TINY, constraint, Training(optimisation, device=device))
    assert _tau_within_buckets(PathScorer(path_filter, TINY, constraint), fresh) > max(0.5, untrained + 0.3)
    assert not path_filter.training
    assert report.samples == 50 * (round(0.8 * len(data.paths)) // 64) * 64


def test_the_filter_ends_with_the_weights_of_least_validation_loss(run, monkeypatch):
    constraint, path_filter, seen = _constraint(TINY), _filter(bounded_loss=False), []

    def recorded(scores, losses, buckets, bounded=True):
        assert not bounded, "as the filter's settings say"
        loss = flops_bounded_loss(scores, losses, buckets, bounded)
        if not torch.is_grad_enabled():
            seen.append((loss.item(), len(losses)))
        return loss

    monkeypatch.setattr(method, "flops_bounded_loss", recorded)
    data = _ranking(constraint, 20)
    steep = Optimisation(epochs=12, optimiser="adam", learning_rate=0.05, policy="constant")
    train_filter(run, "filter", path_filter, data, TINY, constraint, Training(steep))
    weights, meta = run.load_weights("filter-best")
    losses = [loss for loss, _ in seen]
    assert {count for _, count in seen} == {len(data.paths) - round(0.8 * len(data.paths))}
    assert len(losses) == 12
    assert meta["loss"] == pytest.approx(min(losses))
    assert meta["epoch"] == int(np.argmin(losses))
    assert meta["epoch"] < 11, "the test needs a training that gets worse again"
    assert all(torch.equal(weights[name], tensor) for name, tensor in path_filter.state_dict().items())
    last, _ = run.load_weights("filter")
    assert any(not torch.equal(last[name], tensor) for name, tensor in weights.items())
    again = _filter(bounded_loss=False)
    train_filter(run, "filter", again, data, TINY, constraint, Training(steep))
    assert len(seen) == 12, "a finished filter is loaded, not trained again"
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())


# --- 3.2 pruning ------------------------------------------------------------------------------------------------------


def test_operation_scores_are_means_over_paths_with_the_operation_inserted():
    scorer = Scorer(TINY, _constraint(TINY))
    operations = _random_pruning(TINY, np.random.default_rng(1), 0.1)
    scores = score_operations(operations, scorer, 12, np.random.default_rng(0))
    (inserted,) = scorer.seen
    assert sorted(map(tuple, scores.index)) == sorted(map(tuple, np.argwhere(operations.allowed)))
    inserted = inserted.reshape(len(scores.index), 12, -1)
    score = Scorer(TINY, scorer.constraint)
    for operation, (layer, d, w, e) in enumerate(scores.index):
        block, paths = TINY.layer_stage[layer], inserted[operation]
        assert (paths[:, TINY.depth_columns][:, block] == d).all()
        assert (paths[:, TINY.width_columns][:, block] == w).all()
        assert (paths[:, TINY.expand_columns][:, layer] == e).all()
        assert TINY.active_layers(paths)[:, layer].all()
        assert (TINY.canonical(paths) == paths).all()
        assert scores.score[operation] == pytest.approx(np.mean([score(path[None])[0] for path in paths]))
        assert scores.cost[operation] == pytest.approx(scorer.constraint.cost(paths).mean())
        # the same paths for every operation, but for the block that it is inserted into
        other = TINY.layer_stage != block
        same = inserted[(operation + 17) % len(inserted)]
        if TINY.layer_stage[scores.index[(operation + 17) % len(inserted)][0]] == block:
            assert (paths[:, TINY.expand_columns][:, other] == same[:, TINY.expand_columns][:, other]).all()


def test_layers_that_an_inserted_depth_brings_back_have_any_expand_ratio():
    """Section 3.2: the average is over uniform paths, so a layer kept by the inserted depth has each ratio as often."""
    scorer = Scorer(PAPER, _constraint(PAPER))
    scores = score_operations(Operations.all(PAPER), scorer, 100, np.random.default_rng(0))
    inserted = scorer.seen[0].reshape(len(scores.index), 100, -1)
    deepest_first_layer = (scores.index[:, 0] == 0) & (scores.index[:, 1] == 2)
    last_layer_of_block = inserted[deepest_first_layer][..., PAPER.expand_columns][..., 3]
    shares = np.bincount(last_layer_of_block.ravel(), minlength=3) / last_layer_of_block.size
    assert abs(shares - 1 / 3).max() < 0.15


def _operation_scores(space, seed=0) -> OperationScores:
    generator = np.random.default_rng(seed)
    index = np.argwhere(Operations.all(space).allowed)
    cost = index @ np.array([0.1, 1.0, 2.0, 1.5]) + generator.random(len(index))
    return OperationScores(index, generator.random(len(index)), cost)


def _removed(scores: OperationScores, left: Operations) -> np.ndarray:
    return np.array([not left.allowed[tuple(row)] for row in scores.index])


def _buckets_of(scores: OperationScores, buckets=5) -> np.ndarray:
    width = (scores.cost.max() - scores.cost.min()) / buckets
    return np.minimum((scores.cost - scores.cost.min()) // width, buckets - 1).astype(int)


@pytest.mark.parametrize("strategy", ["none", "flops", "score_bucket", "score_all"])
def test_operations_are_pruned_as_section_3_2_says(strategy):
    scores, operations = _operation_scores(PAPER), Operations.all(PAPER)
    pruning = PruningSettings(strategy, ratio_all=0.1, ratio_bucket=0.3)
    left = prune_operations(operations, scores, pruning, 5, np.random.default_rng(0))
    worst_first, bucket = np.argsort(scores.score), _buckets_of(scores)
    if strategy == "flops":
        worst_first = np.random.default_rng(0).permutation(len(scores.score))
    first = set(worst_first[: round(0.1 * len(worst_first))]) if strategy == "score_all" else set()
    expected = set(first)
    for which in range(5) if strategy != "none" else ():
        members = [o for o in worst_first if bucket[o] == which and o not in first]
        expected |= set(members[: round(0.3 * len(members))])
    assert set(np.flatnonzero(_removed(scores, left))) == expected
    assert operations.allowed.sum() == len(scores.index), "the space that was given stays as it was"


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(["flops", "score_bucket", "score_all"]),
    ratio_all=st.floats(0, 1),
    ratio_bucket=st.floats(0, 1),
)
def test_a_path_always_remains(seed, strategy, ratio_all, ratio_bucket):
    generator = np.random.default_rng(seed)
    pruning = PruningSettings(strategy, ratio_all, ratio_bucket)
    left = prune_operations(Operations.all(TINY), _operation_scores(TINY, seed), pruning, 5, generator)
    assert all(left.block_choices(block).any() for block in range(4))
    assert left.size() >= 1
    assert left.contains(left.sample(20, generator)).all()


def test_thresholds_are_quantiles_of_each_bucket():
    scorer = Scorer(TINY, _constraint(TINY))
    operations = Operations.all(TINY)
    thresholds = path_thresholds(operations, scorer, 0.25, np.random.default_rng(0), samples=20_000)
    paths = operations.sample(20_000, np.random.default_rng(1))
    scores, buckets = scorer(paths), scorer.constraint.bucket(paths)
    for bucket in range(5):
        inside = scores[buckets == bucket]
        if len(inside) > 500:
            assert (inside < thresholds[bucket]).mean() == pytest.approx(0.25, abs=0.05)
    assert np.isneginf(path_thresholds(operations, scorer, 0.0, np.random.default_rng(0))).all()
    wide = Scorer(TINY, dataclasses.replace(scorer.constraint, edges=(*scorer.constraint.edges, math.inf)))
    thresholds = path_thresholds(operations, wide, 0.25, np.random.default_rng(0), 1000)
    assert np.isfinite(thresholds[0])
    assert np.isneginf(thresholds[-1]), "no path falls into it"


def test_the_sampler_draws_again_below_the_threshold():
    """Algorithm 1, lines 10 to 13, against uniform paths of which those under the threshold are thrown away."""
    scorer, operations = Scorer(TINY, _constraint(TINY)), Operations.all(TINY)
    thresholds = path_thresholds(operations, scorer, 0.25, np.random.default_rng(0))
    sampler = PathSampler(operations, scorer, thresholds)
    generator = np.random.default_rng(1)
    one_by_one = np.concatenate([sampler(1, generator) for _ in range(400)])
    together = sampler(1500, generator)
    uniform = operations.sample(20_000, generator)
    kept = uniform[scorer(uniform) >= thresholds[scorer.constraint.bucket(uniform)]]
    assert len(kept) / len(uniform) == pytest.approx(0.75, abs=0.03)
    for paths, count in ((one_by_one, 400), (together, 1500)):
        assert paths.shape == (count, len(TINY.columns))
        assert (scorer(paths) >= thresholds[scorer.constraint.bucket(paths)]).all()
        np.testing.assert_allclose(paths.mean(axis=0), kept.mean(axis=0), atol=2.4 / count**0.5)
    unfiltered = PathSampler(operations, Scorer(TINY, None), np.full(5, -np.inf))
    expected = operations.sample(9, np.random.default_rng(0))
    assert (unfiltered(9, np.random.default_rng(0)) == expected).all()


def test_prune_joins_the_parts():
    scorer = Scorer(TINY, _constraint(TINY))
    sampler, scores = prune(Operations.all(TINY), scorer, PruningSettings(), 8, seed=0)
    again, _ = prune(Operations.all(TINY), scorer, PruningSettings(), 8, seed=0)
    assert (sampler.operations.allowed == again.operations.allowed).all()
    assert 0 < _removed(scores, sampler.operations).mean() < 0.5
    assert sampler.operations.contains(sampler(50, np.random.default_rng(0))).all()
    assert np.isfinite(sampler.thresholds).any()
    untouched, _ = prune(Operations.all(TINY), scorer, PruningSettings(operations="none", ratio_path=0.0), 8, seed=0)
    assert untouched.operations.size() == TINY.size()
    assert np.isneginf(untouched.thresholds).all()


# --- Algorithm 1 ------------------------------------------------------------------------------------------------------


class Noise:
    """Four batches of noise an epoch."""

    steps_per_epoch = 4

    def epoch(self, epoch, start=0, stage=""):
        for step in range(start, 4):
            generator = torch.Generator().manual_seed(10 * epoch + step)
            yield ClassificationBatch(torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4) % 3)


def _supernet() -> Classifier:
    torch.manual_seed(0)
    return Classifier(OFAResNet(TINY), 3)


def test_each_step_trains_one_sampled_path(run, monkeypatch):
    supernet, activated = _supernet(), []
    activate = supernet.activate
    monkeypatch.setattr(supernet, "activate", lambda path: (activated.append(path), activate(path)))
    operations = Operations.all(TINY)
    operations.allowed[:, :, 1] = False  # width 0 only
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    task = Task(Noise(), classification_losses, None)
    train(run, "s", supernet, task, operations.sample, Training(Optimisation(epochs=2, learning_rate=1e-2)))
    assert len(activated) == 8
    assert operations.contains(np.stack(activated)).all()
    assert len(np.unique(np.stack(activated), axis=0)) > 4
    weight, old = supernet.backbone.stages[3][0].expand.conv.weight, before["backbone.stages.3.0.expand.conv.weight"]
    narrow = TINY.stage_width(3, 0)
    assert not torch.equal(weight[:narrow], old[:narrow])
    assert torch.equal(weight[narrow:], old[narrow:]), "channels outside the sampled widths are never trained"


class Judge:
    """An evaluator whose loss counts its calls; some paths are beyond its means. A path is its own network here."""

    def __init__(self, trouble=None):
        self.trouble, self.asked = trouble or {}, []

    def recalibrate(self, path):
        return path

    def loss(self, path):
        self.asked.append(TINY.key(path))
        trouble = self.trouble.get(self.asked[-1])
        if isinstance(trouble, Exception):
            raise trouble
        return trouble if trouble is not None else float(len(self.asked))


SUPERNET = SimpleNamespace(extract=lambda path: path, backbone=SimpleNamespace(space=TINY))


def test_path_losses_are_recorded_and_never_measured_twice(run):
    paths, judge = TINY.sample(5, np.random.default_rng(0)), Judge()
    first = validate_paths(run, "warm-up", SUPERNET, judge, paths[:3])
    assert first.losses.tolist() == [1.0, 2.0, 3.0]
    both = validate_paths(run, "warm-up", SUPERNET, judge, paths)
    assert both.losses.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (both.paths == paths).all()
    assert len(judge.asked) == 5
    assert len(run.candidates()) == 5
    validate_paths(run, "search", SUPERNET, judge, paths[:2])
    assert len(judge.asked) == 7, "another purpose is another supernet"
    again = validated_paths(run, "warm-up", TINY)
    by_name = sorted(range(5), key=lambda at: TINY.key(paths[at]))
    assert (again.paths == paths[by_name]).all()
    assert (again.losses == both.losses[by_name]).all()
    with pytest.raises(InputError, match="holds no validated path"):
        validated_paths(run, "classification", TINY)


def test_a_path_that_cannot_be_evaluated_is_recorded_and_left_out(run):
    paths = EVERY_PATH[::5000]
    keys = [TINY.key(path) for path in paths]
    trouble = {keys[0]: float("nan"), keys[2]: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")}
    found = validate_paths(run, "warm-up", SUPERNET, Judge(trouble), paths)
    assert (found.paths == paths[[1, 3, 4]]).all()
    assert np.isfinite(found.losses).all()
    known = sorted(found.paths.tolist(), key=lambda path: TINY.key(np.array(path, found.paths.dtype)))
    assert validated_paths(run, "warm-up", TINY).paths.tolist() == known
    failed = {record["key"][1]: record["reason"] for record in run.candidates(status="failed")}
    assert set(failed) == {keys[0], keys[2]}
    assert "not finite" in failed[keys[0]]
    assert "does not fit in memory" in failed[keys[2]]


# --- 3.3 search -------------------------------------------------------------------------------------------------------


def _search(operations, scorer, budget, wanted: float):
    """A search; evolution may end beside the best once in a while: then another seed's."""
    for seed in (1, 2):
        found = search(operations, scorer, budget, EvolutionSettings(100, 60), seed)
        if found.score == pytest.approx(wanted):
            break
    return found


@pytest.mark.parametrize(("kind", "share"), [("macs", 0.15), ("macs", 1.0), ("latency", 0.5)])
def test_search_finds_what_brute_force_finds(kind, share):
    scorer = Scorer(TINY, _constraint(TINY, TABLES[kind], name=kind))
    operations = _random_pruning(TINY, np.random.default_rng(2), 0.1)
    budget = scorer.constraint.budget(share)
    fit = EVERY_PATH[operations.contains(EVERY_PATH) & (scorer.constraint.cost(EVERY_PATH) <= budget)]
    buckets = scorer.constraint.bucket(fit)
    left = EVERY_PATH[operations.contains(EVERY_PATH)]
    affordable, bucket = scorer.constraint.cost(left) <= budget, scorer.constraint.bucket(left)
    dearest = max(each for each in range(5) if affordable[bucket == each].mean() >= 0.1)
    best = scorer(fit[buckets == dearest]).max()
    found = _search(operations, scorer, budget, dearest + best)
    assert scorer(found.best[None])[0] == pytest.approx(best)
    assert scorer.constraint.cost(found.best[None])[0] <= budget
    assert scorer.constraint.bucket(found.best[None])[0] == dearest
    assert operations.contains(found.best[None])[0]


def test_a_path_that_costs_just_the_budget_is_one_of_its_bucket():
    """Not of the next one, in which it would beat all that is cheaper, whatever the scores."""
    table = CostTable.macs(TINY, 64)
    edges = np.quantile(table(EVERY_PATH).astype(float), [0, 0.25, 0.5, 0.75, 1], method="nearest")
    constraint = Constraint("macs", "MAC", lambda paths: table(paths).astype(float), tuple(edges))
    scorer = Scorer(TINY, constraint)
    for bucket, budget in enumerate(edges[1:]):
        at_budget = EVERY_PATH[constraint.cost(EVERY_PATH) == budget]
        assert set(constraint.bucket(at_budget)) == {bucket}
        fit = EVERY_PATH[constraint.bucket(EVERY_PATH) == bucket]
        best = scorer(fit).max()
        found = _search(Operations.all(TINY), scorer, budget, bucket + best)
        assert scorer(found.best[None])[0] == pytest.approx(best)
    assert constraint.bucket(EVERY_PATH).max() == 3
    assert constraint.bucket(TINY.smallest()[None]) == 0


@pytest.mark.parametrize(("reached", "bucket"), [(0.02, 1), (0.2, 2), (1.0, 2)])
def test_a_search_is_not_confined_to_the_few_paths_that_a_budget_reaches_of_a_bucket(reached, bucket):
    """The bucket below has better ones than a fiftieth of a bucket."""
    scorer, operations = Scorer(TINY, _constraint(TINY)), Operations.all(TINY)
    costs, buckets = scorer.constraint.cost(EVERY_PATH), scorer.constraint.bucket(EVERY_PATH)
    budget = float(np.quantile(costs[buckets == 2], reached, method="lower"))
    best = bucket + scorer(EVERY_PATH[(buckets == bucket) & (costs <= budget)]).max()
    assert _search(operations, scorer, budget, best).score == pytest.approx(best)


@pytest.mark.parametrize(("share", "bucket"), [(0.05, 0), (0.1, 0), (0.7, 2), (0.9, 3), (0.99, 4)])
def test_a_budget_of_another_cost_pays_for_the_dearest_bucket_with_a_tenth_of_its_paths(share, bucket):
    """Buckets of FLOPs, a budget of latency: in three of these cases a dearer bucket has some path fast enough."""
    limit = dataclasses.replace(_constraint(TINY, TABLES["latency"]), buckets_of=_constraint(TINY))
    budget = float(np.quantile(limit.cost(EVERY_PATH), share))
    assert affordable_bucket(Operations.all(TINY), limit, budget, np.random.default_rng(0)) == bucket


def test_a_few_drawn_paths_of_a_bucket_do_not_speak_for_it(monkeypatch):
    """Three were drawn, the dearest ones; the budget pays for half of the bucket."""
    constraint, operations = _constraint(TINY), Operations.all(TINY)
    bucket, costs = constraint.bucket(EVERY_PATH), constraint.cost(EVERY_PATH)
    dearest = EVERY_PATH[np.argsort(costs)[-3:]]
    drawn = np.concatenate([EVERY_PATH[bucket < 4], dearest])
    draw = Operations.draw
    monkeypatch.setattr(Operations, "draw", lambda self, *how: drawn if how[0] == 5000 else draw(self, *how))
    budget = float(np.median(costs[bucket == 4]))
    assert (constraint.cost(dearest) > budget).all()
    assert affordable_bucket(operations, constraint, budget, np.random.default_rng(0)) == 4


def test_walks_into_a_bucket_begin_at_any_expand_ratio_of_dropped_layers(monkeypatch):
    """At the least one, what a walk makes deeper would be too cheap."""
    begun, constraint = [], _constraint(TINY)
    monkeypatch.setattr(method, "_walk_into", lambda *given: begun.append(given[3]) or given[3][:0])
    beyond = 2 * constraint.highest
    with_an_empty_bucket = dataclasses.replace(constraint, edges=(*constraint.edges, beyond))
    affordable_bucket(Operations.all(TINY), with_an_empty_bucket, beyond, np.random.default_rng(0))
    paths = begun[0]
    dropped = paths[:, TINY.expand_columns][~TINY.active_layers(paths)]
    assert dropped.mean() == pytest.approx(0.5, abs=0.02)


def test_a_search_takes_what_is_affordable_where_no_bucket_has_a_tenth_of_it():
    operations = Operations.all(TINY)
    operations.allowed[:, :, 0] = False  # only full width is left
    scorer = Scorer(TINY, _constraint(TINY))
    left = EVERY_PATH[operations.contains(EVERY_PATH)]
    buckets = scorer.constraint.bucket(left)
    budget = np.sort(scorer.constraint.cost(left[buckets == buckets.min()]))[3]
    found = search(operations, scorer, float(budget), EvolutionSettings(100, 60), 1)
    assert buckets.min() > 0
    assert operations.contains(found.best[None])[0]
    assert scorer.constraint.cost(found.best[None])[0] <= budget


def test_a_budget_that_no_path_meets_is_refused_in_a_sentence():
    scorer, operations = Scorer(TINY, _constraint(TINY)), Operations.all(TINY)
    lowest = scorer.constraint.lowest
    for budget in (0.0, lowest * 0.999):
        with pytest.raises(NoPath, match=r"no path has macs <= .* MAC: give a budget between .*\(the cheapest") as e:
            search(operations, scorer, budget, EvolutionSettings(10, 2), seed=0)
        assert "\n" not in str(e.value)
    operations.allowed[:, :, 0] = False  # only full width is left
    with pytest.raises(NoPath, match="no candidate meets the constraint"):
        search(operations, scorer, lowest * 1.01, EvolutionSettings(10, 2), seed=0)


# --- 4.2 progressive shrinking ---------------------------------------------------------------------------------------

SPACE = dataclasses.replace(TINY, stage_widths=(16, 16, 32, 32), stage_strides=(1, 2, 1, 1))
CLASSES = 3


@pytest.mark.parametrize(
    "elastic", [c for size in range(4) for c in itertools.combinations(("depth", "expand", "width"), size)]
)
def test_a_phase_varies_its_choices_only(elastic):
    operations = phase_operations(SPACE, elastic)
    paths = operations.sample(400, np.random.default_rng(0))
    active = SPACE.active_layers(paths)
    values = {
        "depth": set(paths[:, SPACE.depth_columns].ravel().tolist()),
        "width": set(paths[:, SPACE.width_columns].ravel().tolist()),
        "expand": set(paths[:, SPACE.expand_columns][active].tolist()),
    }
    for name, found in values.items():
        assert found == ({0, 1} if name in elastic else {1}), name
    assert phase_operations(TINY, elastic).size() == phase_operations(TINY, elastic).contains(EVERY_PATH).sum()
    seen, kept = set(), set()  # (stage, layer, inner width), (stage, width)
    for networks, widths in ((map(SPACE.architecture, paths), seen), (all_widths(SPACE, elastic), kept)):
        for network in networks:
            widths |= set(enumerate(network.stage_widths))
            widths |= {(s, at, w) for s, middles in enumerate(network.middle_widths) for at, w in enumerate(middles)}
    assert kept == seen, "what sorting keeps together is what the phase has trained"
    assert phase_operations(SPACE, ()).size() == 1
    assert phase_operations(SPACE, ("depth", "expand", "width")).size() == Operations.all(SPACE).size()


def _maps(seed: int, device, scale: float = 3.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = {"heatmap": CLASSES, "size": 2, "offset": 2}
    return {
        name: (scale * torch.randn(2, count, 6, 5, generator=generator)).to(device) for name, count in channels.items()
    }


def test_distillation_equals_a_loop_over_cells(device):
    student, teacher = _maps(1, device), _maps(2, device)
    losses = centernet_distillation(student, teacher)
    p = 1 / (1 + np.exp(-teacher["heatmap"].double().cpu().numpy()))
    q = 1 / (1 + np.exp(-student["heatmap"].double().cpu().numpy()))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # of two coins, cell by cell
    expected = {"heatmap": divergence.sum() / p.sum()}
    best = p.max(axis=1)
    for name in ("size", "offset"):
        apart = np.abs((student[name] - teacher[name]).double().cpu().numpy()).mean(axis=1)
        expected[name] = (apart * best).sum() / best.sum()
    expected["loss"] = expected["heatmap"] + 0.1 * expected["size"] + expected["offset"]
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0
    for value in centernet_distillation(teacher, teacher).values():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(0.0, abs=1e-5), "nothing where they agree"


@pytest.mark.parametrize("scale", [3.0, 60.0])
def test_the_gradient_of_distillation_is_finite_and_leads_to_the_teacher(scale, device):
    teacher = _maps(3, device, scale)
    student = {name: value.requires_grad_() for name, value in _maps(4, device, scale).items()}
    before = centernet_distillation(student, teacher)["loss"]
    before.backward()
    assert before.isfinite()
    assert all(value.grad.isfinite().all() for value in student.values())
    assert all(value.grad.abs().sum() > 0 for value in student.values())
    with torch.no_grad():
        stepped = {name: value - 0.1 * value.grad for name, value in student.items()}
        assert centernet_distillation(stepped, teacher)["loss"] < before


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(4, 3, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 6 + 5 * torch.rand(4, 3, 2, generator=generator)], dim=-1)
    labels = torch.randint(CLASSES, (4, 3), generator=generator)
    return Batch(
        torch.randn(4, 3, 32, 32, generator=generator),
        boxes,
        labels,
        labels >= 0,
        torch.arange(4),
        torch.full((4, 2), 32),
    )


class Pictures:
    steps_per_epoch = 3

    def epoch(self, epoch, start=0, stage=""):
        for step in range(start, 3):
            yield _batch(10 * epoch + step)


def _detector() -> CenterNet:
    torch.manual_seed(0)
    return CenterNet(OFAResNet(SPACE), CLASSES, (8,), 8, elastic=True)


SHRINKING = ShrinkingSettings(
    phases=(Phase("depth", 1, elastic=("depth",)), Phase("width", 2, elastic=("depth", "expand", "width"))),
    optimisation=Optimisation(epochs=1, optimiser="adam", learning_rate=1e-3, policy="multistep", milestones=(0.5,)),
)


def _shrink(folder, supernet, settings=SHRINKING):
    full = _detector()
    teacher = full.extract(SPACE.largest()).eval()
    task = Task(Pictures(), centernet_losses, None)
    with Run.open(folder, {}) as run:
        reports = progressive_shrinking(run, supernet, teacher, task, settings, Training(settings.optimisation))
        return reports, run


def test_two_phases_of_shrinking(tmp_path, monkeypatch, logged):
    supernet, activated, sorted_at = _detector(), [], []
    trained = ([SPACE.architecture(SPACE.largest()).middle_widths],) * 2  # no phase before widens expand ratios
    activate, sort = supernet.activate, supernet.sort_channels

    def sort_and_look(kept):
        assert [architecture.middle_widths for architecture in kept] == trained[len(sorted_at)]
        images = _batch(99).images
        supernet.eval()
        with torch.no_grad():
            activate(SPACE.largest())
            before = supernet(images)["heatmap"]
            sort(kept)
            after = supernet(images)["heatmap"]
        supernet.train()
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
        for blocks in supernet.backbone.stages:
            for block in blocks:
                importance = block.expand.conv.weight.detach().abs().sum((0, 2, 3))
                assert (importance.diff() <= 1e-5).all()
        sorted_at.append(len(activated))

    monkeypatch.setattr(supernet, "activate", lambda path: (activated.append(np.array(path)), activate(path)))
    monkeypatch.setattr(supernet, "sort_channels", sort_and_look)
    reports, run = _shrink(tmp_path / "run", supernet)
    assert sorted_at == [0, 3], "sorted once before each phase"
    assert [report.steps for report in reports] == [3, 6]
    assert len(activated) == 9
    assert phase_operations(SPACE, ("depth",)).contains(np.stack(activated[:3])).all()
    assert len(np.unique(np.stack(activated[3:]), axis=0)) > 3
    assert all(tensor.isfinite().all() for tensor in supernet.state_dict().values())
    assert {"distillation", "loss", "heatmap"} <= set(reports[0].losses)
    learning_rates = [record["learning_rate"] for record in logged(run.path) if record["stage"] == "width"]
    assert learning_rates == pytest.approx([1e-4, 1e-4]), "milestones are shares of the phase"
    again = _detector()
    monkeypatch.setattr(again, "sort_channels", lambda kept: pytest.fail("a finished phase was sorted again"))
    _shrink(tmp_path / "run", again)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in supernet.state_dict().items())


def test_several_networks_a_step_share_its_gradient(tmp_path):
    settings = ShrinkingSettings(SHRINKING.phases[:1], SHRINKING.optimisation, networks_a_step=2)
    supernet, activated = _detector(), []
    activate = supernet.activate
    supernet.activate = lambda path: (activated.append(path), activate(path))
    reports, _ = _shrink(tmp_path / "two", supernet, settings)
    assert len(activated) == 6
    assert reports[0].steps == 3
