"""Once-for-All's ResNet: the super-network and the networks taken out of it."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.models import elastic
from common.models.classifier import Classifier
from common.models.elastic import ElasticConvTranspose2d
from common.models.ofa_resnet import OFAResNet, ResNet, sort_channels, weights_of_release
from common.plain import InputError
from detofa.space import OFAResNetSpace
from tests.common.models.families import randomise_norms

TINY = OFAResNetSpace((1, 1, 2, 1), stage_widths=(16, 24, 32, 48), stem_width=16, channel_multiple=4, elastic_stem=True)
SOME_PATHS = [TINY.smallest(), *TINY.sample(3, np.random.default_rng(7)), TINY.largest()]


@pytest.mark.parametrize("strides", [(1, 2, 2, 2), (1, 2, 1, 1), (2, 2, 1, 2), (1, 1, 1, 1)])
def test_features_have_the_strides_and_widths_of_the_path(strides):
    space = replace(TINY, stage_strides=strides)
    net, path = OFAResNet(space).eval(), space.largest()
    path[space.width_columns] = [0, 1, 2, 0]
    net.activate(path)
    plain, at = net.extract(path), 4 * np.cumprod(strides)
    assert net.stride == plain.stride == at[-1]
    assert net.out_channels == (16, 24, 32, 48)
    assert plain.out_channels == tuple(space.stage_width(stage, width) for stage, width in enumerate([0, 1, 2, 0]))
    images = torch.randn(1, 3, 72, 100)
    features = net(images)
    assert [tuple(feature.shape) for feature in features] == [
        (1, width, -(-72 // stride), -(-100 // stride)) for width, stride in zip(plain.out_channels, at, strict=True)
    ]
    again = ResNet.from_config(json.loads(json.dumps(plain.description)))
    again.load_state_dict(plain.state_dict())
    assert all(map(torch.equal, again.eval()(images), features))


@pytest.mark.parametrize("direct_from", [0, elastic.DIRECT_FROM])
def test_extraction_is_exact(direct_from, device, monkeypatch):
    monkeypatch.setattr(elastic, "DIRECT_FROM", direct_from)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
    torch.manual_seed(0)
    net = randomise_norms(OFAResNet(TINY)).to(device)
    images = torch.randn(2, 3, 64, 64, device=device)
    for path in SOME_PATHS:
        net.activate(path)
        plain = net.extract(path)
        net.eval(), plain.eval()
        with torch.no_grad():
            assert all(map(torch.equal, net(images), plain(images)))
        outputs = []
        for network in (net.train(), plain.train()):
            optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
            outputs.append(network(images))
            sum(output.square().mean() for output in outputs[-1]).backward()
            optimiser.step()
            optimiser.zero_grad()
        assert all(map(torch.equal, *outputs))
        trained = net.extract(path).state_dict()
        for name, tensor in plain.state_dict().items():
            assert torch.equal(tensor, trained[name]), name


def test_zero_init_last_makes_later_blocks_the_identity():
    net = ResNet(TINY.architecture(TINY.largest()), zero_init_last=True)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(net.stages[0][1](x), x)


def test_sort_channels_keeps_the_function_and_sorts():
    torch.manual_seed(0)
    net = randomise_norms(OFAResNet(TINY)).eval().double()
    neck = ElasticConvTranspose2d(48, 4, 4, 2, 1, bias=False).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def run():
        with torch.no_grad():
            return neck(net(images)[-1])

    before, first = run(), net.stages[0][0].reduce.conv.weight.clone()
    sort_channels(net, readers={3: [neck]})
    torch.testing.assert_close(run(), before)
    assert not torch.equal(first, net.stages[0][0].reduce.conv.weight)

    def importance(*convs):
        return sum(conv.weight.detach().abs().sum((0, 2, 3)) for conv in convs)

    for blocks in net.stages:
        for block in blocks:
            assert (importance(block.expand.conv).diff() <= 1e-4).all()
            assert (importance(block.spatial.conv).diff() <= 1e-4).all()
    for stage in range(3):
        following = net.stages[stage + 1][0]
        readers = [block.reduce.conv for block in list(net.stages[stage])[1:]]
        readers += [following.reduce.conv, following.shortcut.project.conv]
        assert (importance(*readers).diff() <= 1e-4).all()


def test_trained_sub_networks_compute_the_same_after_sorting_and_channels_are_sorted_inside_their_groups():
    torch.manual_seed(0)
    space = replace(TINY, channel_multiple=1)
    net = randomise_norms(OFAResNet(space)).eval().double()
    neck = ElasticConvTranspose2d(48, 4, 4, 2, 1, bias=False).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    trained = space.sample(12, np.random.default_rng(0))
    trained[:, space.width_columns] = trained[:, space.stem_columns.start + 1 : space.stem_columns.stop] = (
        2  # full widths
    )

    def outputs():
        with torch.no_grad():
            for path in trained:
                net.activate(path)
                yield neck(net(images)[-1])

    before = list(outputs())
    kept = []
    for expand in range(3):
        path = space.largest()
        path[space.expand_columns] = expand
        kept.append(space.architecture(path))
    sort_channels(net, {3: [neck]}, kept)
    for one, other in zip(before, outputs(), strict=True):
        torch.testing.assert_close(one, other)
    for stage, blocks in enumerate(net.stages):
        edges = [0, *(space.middle_width(stage, 2, expand) for expand in range(3))]
        for block in blocks:
            importance = block.expand.conv.weight.detach().abs().sum((0, 2, 3))
            for left, right in itertools.pairwise(edges):
                assert (importance[left:right].diff() <= 1e-9).all()
    sort_channels(net, {3: [neck]})
    assert any(not torch.allclose(one, other) for one, other in zip(before, outputs(), strict=True))


def test_weights_of_the_release_compute_what_its_own_networks_do():
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks", reason="ofa is not installed")
    space = OFAResNetSpace(elastic_stem=True)
    theirs = networks.OFAResNets(10, (0.1, 1e-5), 0, [0, 1, 2], [0.2, 0.25, 0.35], [0.65, 0.8, 1.0])
    torch.manual_seed(0)
    state = randomise_norms(theirs).eval().state_dict()
    ours = OFAResNet(space).eval()
    ours.load_state_dict(weights_of_release(state, space.max_depths))
    single = {name.replace("conv.conv.", "conv.").replace("bn.bn.", "bn."): tensor for name, tensor in state.items()}
    again = weights_of_release(single, space.max_depths)
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.state_dict().items())
    images, seen = torch.randn(2, 3, 96, 96), []
    theirs.global_avg_pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for path in [space.largest(), space.smallest(), *space.sample(6, np.random.default_rng(0))]:
        skip, middle, out = path[space.stem_columns].tolist()
        theirs.set_active_subnet(
            d=[0 if skip else 2, *path[space.depth_columns].tolist()],
            e=[space.expands[index] for index in path[space.expand_columns]],
            w=[middle, out, *path[space.width_columns].tolist()],
        )
        ours.activate(path)
        with torch.no_grad():
            theirs(images)
            torch.testing.assert_close(ours(images)[-1], seen.pop(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "blocks.18.conv1.conv.weight", "blocks.0.conv4.conv.weight"])
def test_weights_of_another_network_are_refused(name):
    with pytest.raises(InputError, match=f"not the weights of Once-for-All's ResNet50 .* '{name}' is unknown"):
        weights_of_release(
            {"classifier.linear.weight": torch.ones(1), name: torch.ones(1)}, OFAResNetSpace().max_depths
        )


@pytest.mark.parametrize("training", [False, True])
def test_classifier_extracts_with_its_backbone(training):
    torch.manual_seed(0)
    classifier = randomise_norms(Classifier(OFAResNet(TINY), 7)).train(training)
    images = torch.randn(2, 3, 64, 64)
    for path in SOME_PATHS:
        plain = classifier.extract(path)
        classifier.activate(path)
        assert isinstance(plain.backbone, ResNet)
        assert plain.training == training
        with torch.no_grad():
            logits, pooled = plain(images), plain.backbone(images)[-1].mean((2, 3))
            assert torch.equal(logits, classifier(images))
            torch.testing.assert_close(logits, pooled @ plain.linear.weight.T + plain.linear.bias)
