"""ImageNet weights by torchvision's own names; nothing is downloaded here."""

from urllib.error import URLError

import pytest
import torch
import torchvision

from common.models.mobilenet import MobileNetV2
from common.models.resnet import ResNet
from common.models.torchvision_weights import IMAGENET_BACKBONES, imagenet_backbone
from common.plain import InputError

DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "mobilenet_v2"])
def test_a_backbone_with_imagenet_weights_gives_torchvisions_features(name, monkeypatch):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    asked = {}

    def download(address, **options):
        asked.update(options, address=address)
        return {key: tensor for key, tensor in theirs.state_dict().items() if "num_batches" not in key}

    monkeypatch.setattr(DOWNLOAD, download)
    ours = (MobileNetV2() if name == "mobilenet_v2" else ResNet(name)).eval()
    ours.load_state_dict(imagenet_backbone(name))
    assert asked["weights_only"]
    assert asked["check_hash"]
    assert name in asked["address"]
    images = torch.randn(1, 3, 64, 64)
    last = theirs.features if name == "mobilenet_v2" else torch.nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[-1], last(images), rtol=1e-4, atol=1e-5)


def test_without_a_network_it_says_what_to_fetch(monkeypatch):
    def download(address, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(DOWNLOAD, download)
    with pytest.raises(InputError, match=r"resnet50.*no route to host.*https://.*checkpoints"):
        imagenet_backbone("resnet50")


def test_every_backbone_named_has_weights_of_that_version():
    for name in IMAGENET_BACKBONES:
        assert torchvision.models.get_model_weights(name).IMAGENET1K_V1.url.startswith("https://")
