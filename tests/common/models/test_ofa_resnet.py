"""Once-for-All's ResNet: the super-network and the networks taken out of it."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from common.models.classifier import Classifier
from common.models.elastic import ElasticConvTranspose2d
from common.models.ofa_resnet import OFAResNet, ResNet, sort_channels
from detofa.space import OFAResNetSpace

PAPER = OFAResNetSpace()
TINY = OFAResNetSpace((1, 1, 2, 1), stage_widths=(16, 24, 32, 48), stem_width=16, channel_multiple=4, elastic_stem=True)


def _randomise_statistics(net):
    for name, tensor in net.state_dict().items():
        if "running_mean" in name:
            tensor.uniform_(-0.2, 0.2)
        if "running_var" in name or "norm.weight" in name:
            tensor.uniform_(0.5, 1.5)


@pytest.mark.parametrize("strides", [(1, 2, 1, 1), (2, 2, 1, 2), (1, 1, 1, 1)])
def test_stage_strides_choose_where_the_resolution_is_halved(strides):
    space = dataclasses.replace(TINY, stage_strides=strides)
    net, side, shapes = OFAResNet(space).eval(), 64 // 4, []
    assert net.stride == 4 * np.prod(strides)
    path = space.sample(1, np.random.default_rng(6))[0]
    net.activate(path)
    for stride in strides:
        side //= stride
        shapes.append((side, 2 * side))
    images = torch.randn(1, 3, 64, 128)
    assert [tuple(feature.shape[2:]) for feature in net(images)] == shapes
    plain = net.extract()
    assert plain.stride == net.stride
    assert all(map(torch.equal, plain(images), net(images)))
    again = ResNet.from_config(plain.description)
    again.load_state_dict(plain.state_dict())
    assert all(map(torch.equal, again.eval()(images), net(images)))


def test_forward_gives_strides_4_to_32():
    net = OFAResNet(TINY).eval()
    path = TINY.largest()
    path[TINY.width_columns] = [0, 1, 2, 0]
    net.activate(path)
    shapes = [tuple(feature.shape) for feature in net(torch.zeros(1, 3, 72, 100))]
    widths = net.extract().out_channels
    assert net.out_channels == (16, 24, 32, 48)
    assert widths == tuple(TINY.stage_width(stage, width) for stage, width in enumerate([0, 1, 2, 0]))
    assert shapes == [(1, w, -(-72 // s), -(-100 // s)) for w, s in zip(widths, (4, 8, 16, 32), strict=True)]


def _assert_extraction_is_exact(net, path, size, device):
    net.activate(path)
    plain = net.extract()
    images = torch.randn(2, 3, size, size, device=device)
    net.eval(), plain.eval()
    with torch.no_grad():
        assert all(map(torch.equal, net(images), plain(images)))
    net.train(), plain.train()
    optimisers = [torch.optim.SGD(n.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4) for n in (net, plain)]
    for network, optimiser in zip((net, plain), optimisers, strict=True):
        outputs = network(images)
        network.outputs = [output.detach() for output in outputs]
        sum(output.square().mean() for output in outputs).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert all(map(torch.equal, net.outputs, plain.outputs))
    trained = net.extract().state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, trained[name]), name


def test_extraction_is_exact_at_thin_scale(device):
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
    torch.manual_seed(0)
    net = OFAResNet(TINY).to(device)
    _randomise_statistics(net)
    paths = TINY.sample(4, np.random.default_rng(3))
    for path in [*paths, TINY.smallest(), TINY.largest()]:
        _assert_extraction_is_exact(net, path, 64, device)


def test_extraction_is_exact_at_paper_widths():
    torch.manual_seed(0)
    net = OFAResNet(PAPER)
    _randomise_statistics(net)
    _assert_extraction_is_exact(net, PAPER.sample(1, np.random.default_rng(4))[0], 64, torch.device("cpu"))


def test_unused_weights_get_no_gradient():
    net = OFAResNet(TINY)
    net.activate(TINY.smallest())
    sum(output.square().mean() for output in net(torch.randn(2, 3, 32, 32))).backward()
    assert net.stages[0][1].reduce.conv.weight.grad is None
    gradient = net.stages[2][1].reduce.conv.weight.grad
    middle, width = TINY.middle_width(2, 0, 0), TINY.stage_width(2, 0)
    assert gradient[:middle, :width].abs().sum() > 0
    assert gradient[middle:].abs().sum() + gradient[:, width:].abs().sum() == 0


def test_largest_static_net_and_supernet_share_weights():
    net, plain = OFAResNet(TINY), ResNet(TINY.architecture(TINY.largest()))
    net.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert all(map(torch.equal, net.eval()(images), plain.eval()(images)))
    plain.load_state_dict(net.state_dict())


def test_description_builds_the_same_network():
    path = TINY.sample(1, np.random.default_rng(5))[0]
    plain = OFAResNet(TINY).extract(path)
    description = json.loads(json.dumps(plain.description))
    assert description["kind"] == "ofa_resnet"
    again = ResNet.from_config(description)
    again.load_state_dict(plain.state_dict())


def test_zero_init_last_makes_later_blocks_the_identity():
    net = ResNet(TINY.architecture(TINY.largest()), zero_init_last=True)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(net.stages[0][1](x), x)


def test_sort_channels_keeps_the_function_and_sorts():
    torch.manual_seed(0)
    net = OFAResNet(TINY).eval().double()
    _randomise_statistics(net)
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


@pytest.mark.parametrize("training", [False, True])
def test_classifier_extracts_with_its_backbone(training):
    torch.manual_seed(0)
    classifier = Classifier(OFAResNet(TINY), 7).train(training)
    _randomise_statistics(classifier)
    images = torch.randn(2, 3, 32, 32)
    for path in [TINY.smallest(), *TINY.sample(3, np.random.default_rng(7))]:
        plain = classifier.extract(path)
        classifier.activate(path)
        assert isinstance(plain.backbone, ResNet)
        assert plain.training == training
        with torch.no_grad():
            assert torch.equal(plain(images), classifier(images))
