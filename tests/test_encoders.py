"""The encoders' shapes, the heads, and what stages and layers promise to unfreezing and dropout."""

import functools
import importlib
import itertools

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import nn

from src.encoders import (
    ENCODERS,
    TIMM_NAMES,
    Classifier,
    build_encoder,
    classification_head,
    projection_head,
)


def encoder(**options):
    torch.manual_seed(0)
    return build_encoder("custom_cnn", **{"image_size": 16, **options})


@functools.lru_cache(maxsize=3)
def built(name, **options):
    """An encoder for tests that don't change it, with any weights: a ViT's own take seconds."""
    with torch.device("meta"):
        model = build_encoder(name, **{"image_size": 16, **options}).eval()
    model.to_empty(device="cpu")
    numbers = 0.2 * torch.rand(2**22, generator=torch.Generator().manual_seed(0)) - 0.1
    for parameter in model.parameters():
        parameter.data.copy_(numbers[: parameter.numel()].view_as(parameter))
    for buffer in model.buffers():
        buffer.fill_(1)
    return model


def images(channels=3, size=16, n=2):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_parameter_count():
    # 9·(3·64 + 64·64 + 64·128 + 128·128 + 128·256 + 256·256) of the convolutions,
    # 2·2·(64 + 128 + 256) of batch norm
    assert sum(p.numel() for p in encoder().parameters()) == 1_146_304


@pytest.mark.parametrize(
    ("name", "millions"), [("custom_cnn", 1.1), ("resnet50", 23.5), ("vit_b_16", 85.8)]
)
def test_sizes_are_those_of_the_papers(name, millions):
    size = 64 if name == "custom_cnn" else 224
    with torch.device("meta"):  # no numbers, only shapes
        count = sum(p.numel() for p in build_encoder(name, image_size=size).parameters())
    assert round(count / 1e6, 1) == millions


def test_feature_dim_is_what_comes_out():
    model = encoder()
    assert model.feature_dim == 256
    assert model(images()).shape == (2, 256)


def test_stages_are_in_order_and_with_the_pool_are_the_whole_network():
    model = encoder().eval()
    x, widths, sides = images(), [], []
    for stage in model.stages:
        x = stage(x)
        widths.append(x.shape[1])
        sides.append(x.shape[2])
    assert (widths, sides) == ([64, 128, 256], [8, 4, 2])
    assert torch.equal(model.pool(x), model(images()))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_belongs_to_exactly_one_stage(name):
    # unfreezing makes one optimiser group a stage: a parameter outside would never learn
    model = Classifier(built(name), 4)
    in_stages = [id(p) for stage in model.stages for p in stage.parameters()]
    assert len(in_stages) == len(set(in_stages))
    assert set(in_stages) == {id(p) for p in model.parameters()}


def test_each_stage_is_two_convolutions_then_pooling_then_dropout():
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    for stage in encoder().stages:
        kinds = [type(layer) for layer in stage]
        assert kinds == [*block, *block, nn.MaxPool2d, nn.Dropout2d]


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_weights_load_into_timms_own_network_strictly_and_give_its_features(name):
    ours = built(name, image_size=32)
    size = {"img_size": 32} if name == "vit_b_16" else {}
    with torch.device("meta"):  # its own numbers would be overwritten
        theirs = timm.create_model(TIMM_NAMES[name], num_classes=0, **size).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    assert torch.equal(theirs(images(size=32)), ours(images(size=32)))
    ours.load_state_dict(theirs.state_dict(), strict=True)  # and back


@pytest.mark.parametrize("name", TIMM_NAMES)
@pytest.mark.parametrize("size", [64, 224])
def test_large_encoders_train_a_step_at_both_sizes_of_the_study(name, size):
    torch.manual_seed(0)
    model = Classifier(build_encoder(name, image_size=size), 4)
    first = list(model.stages[0].parameters())
    before = [p.detach().clone() for p in first]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images(size=size, n=1)).logsumexp(1).sum().backward()
    optimizer.step()
    assert not all(map(torch.equal, before, first))
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(("size", "patches"), [(64, 16), (224, 196)])
def test_the_vit_has_a_position_for_every_patch_and_the_class_token(size, patches):
    vit = built("vit_b_16", image_size=size)
    assert vit.pos_embed.shape == (1, patches + 1, 768)
    # a position is the patch's own: moving a patch must change the features
    x = images(size=size, n=1)
    with torch.no_grad():
        assert not torch.allclose(vit(x), vit(x.roll(16, dims=3)))


def test_the_vit_takes_whole_patches_only():
    with pytest.raises(ValueError, match="patches of 16 pixels: image_size 40"):
        build_encoder("vit_b_16", image_size=40)


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_dropout_of_the_large_encoders_falls_on_the_features_where_mc_dropout_sees_it(name):
    model = built(name, dropout=0.5)
    features = model(images())
    *trunk, last = model.layers()
    assert isinstance(last, nn.Dropout) and last.p == 0.5
    in_trunk = [m for layer in trunk for m in layer.modules() if isinstance(m, nn.Dropout)]
    assert all(dropout.p == 0 for dropout in in_trunk)
    last.train()  # all that MC Dropout does
    dropped = model(images())
    assert ((dropped == 0) | torch.isclose(dropped, 2 * features)).all() and (dropped == 0).any()


def test_imagenet_weights_that_cannot_be_fetched_are_an_error_that_says_what_to_do(
    tmp_path, monkeypatch
):
    # an empty cache, and no network
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"weights of resnet50 could not be fetched.*HF_HOME"):
        build_encoder("resnet50", imagenet=True)


def test_imagenet_weights_are_timms(monkeypatch):
    fetched, create_model = [], timm.create_model

    def fetch(name, *, pretrained, **options):
        assert pretrained
        fetched.append(create_model(name, **options))
        return fetched[0]

    monkeypatch.setattr(timm, "create_model", fetch)
    model = build_encoder("vit_b_16", in_channels=4, image_size=32, imagenet=True)
    weights = fetched[0].state_dict()
    assert weights["patch_embed.proj.weight"].shape[1] == 4 and "head.weight" not in weights
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_custom_cnn_has_no_imagenet_weights():
    with pytest.raises(ValueError, match="no ImageNet weights for 'custom_cnn'"):
        build_encoder("custom_cnn", imagenet=True)


@pytest.mark.parametrize("name", ENCODERS)
def test_layers_applied_in_turn_are_the_forward_pass(name):
    for model in (built(name), Classifier(built(name), 4).eval()):
        assert torch.equal(nn.Sequential(*model.layers())(images()), model(images()))


def test_classifier_appends_its_head_to_stages_and_layers():
    model = Classifier(encoder(), 4)
    assert model.stages == [*model.encoder.stages, model.head]
    assert model.layers() == [*model.encoder.layers(), model.head]


@pytest.mark.parametrize("channels", range(1, 14))
def test_any_number_of_bands_runs_forward_and_backward(channels):
    model = encoder(in_channels=channels)
    model(images(channels, size=8)).sum().backward()
    assert model.stages[0][0].weight.shape[1] == channels
    assert model.stages[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", TIMM_NAMES)
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_large_encoders_take_any_number_of_bands(name, channels):
    model = built(name, in_channels=channels)
    model(images(channels)).sum().backward()
    first = model.conv1 if name == "resnet50" else model.patch_embed.proj
    assert first.weight.shape[1] == channels and first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [8, 32, 64, 120])
def test_any_image_size_runs_forward_and_backward(size):
    model = encoder(image_size=size)
    assert model.image_size == size
    features = model(images(size=size, n=1))
    features.sum().backward()
    assert features.shape == (1, 256)


def test_gradients_reach_every_parameter():
    model = Classifier(encoder(), 4)
    model(images(n=4)).logsumexp(1).sum().backward()
    silent = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert silent == []


def test_dropout_is_off_in_eval_and_on_in_training():
    model = encoder(dropout=0.5).eval()
    assert torch.equal(model(images()), model(images()))
    # batch norm draws nothing: only the dropout mask differs between two passes
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_dropout_zero_has_no_effect():
    model = Classifier(encoder(dropout=0.0), 4, dropout=0.0).train()
    assert torch.equal(model(images()), model(images()))


def test_dropout_probability_arrives_in_every_dropout():
    modules = list(Classifier(encoder(dropout=0.3), 4, dropout=0.2).modules())
    assert [m.p for m in modules if isinstance(m, nn.Dropout)] == [0.2] * 2
    assert [m.p for m in modules if isinstance(m, nn.Dropout2d)] == [0.3] * 3


def widths_of(head):
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert all(a.out_features == b.in_features for a, b in itertools.pairwise(linear))
    return [linear[0].in_features, *(layer.out_features for layer in linear)]


def test_projection_head_widths():
    assert widths_of(projection_head(256)) == [256, 512, 512, 128]
    assert widths_of(projection_head(32, (64, 16))) == [32, 64, 16]


def test_projection_head_has_batch_norm_after_every_linear_layer_and_no_relu_at_the_end():
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in projection_head(4, (5, 6, 7))] == (3 * block)[:-1]


def test_classification_head_widths():
    assert widths_of(Classifier(encoder(), num_classes=7).head) == [256, 512, 256, 7]


def test_classification_head_has_relu_and_dropout_between_its_layers():
    block = [nn.Linear, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in classification_head(4, 3, 0.1)] == [*block, *block, nn.Linear]


def test_logits_are_float32_under_bfloat16_autocast():
    model = Classifier(encoder(), 4).eval()
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = model.encoder(images()), model(images())
        again = model.head(features.float())
    assert features.dtype == torch.bfloat16  # the encoder does run in bfloat16
    assert logits.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert projection_head(256).eval()(features).dtype == torch.float32
    # the dtype alone could be a cast at the end: the head's own products must not be rounded either
    assert torch.equal(again, model.head(features.float()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_do_not_depend_on_the_memory_layout(layout):
    model = encoder().eval()
    expected = model(images())
    x = images().contiguous(memory_format=layout)
    torch.testing.assert_close(model.to(memory_format=layout)(x), expected)


def test_unknown_name_names_the_known_ones():
    with pytest.raises(ValueError, match="resnet999") as error:
        build_encoder("resnet999")
    assert all(name in str(error.value) for name in ENCODERS)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_named_encoder_keeps_the_contract(name):
    model = built(name)
    assert model(images()).shape == (2, model.feature_dim)
    assert len(model.stages) == {"custom_cnn": 3, "resnet50": 5, "vit_b_16": 13}[name]


@pytest.mark.parametrize(
    "bad",
    [{"in_channels": 0}, {"image_size": 7}, *({"dropout": p} for p in (-0.1, 1.0, float("nan")))],
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="in_channels >= 1"):
        build_encoder("custom_cnn", **bad)


def test_documented_names_can_be_imported():
    documented = {
        "src.augmentations": "SimCLRAugmentation normalize random_dihedral",
        "src.augmentations.resampling": "resize to_unit",
        "src.losses": "nt_xent nt_xent_floor",
        "src.ood": "entropy mahalanobis mc_dropout metrics pixel_statistics scores",
        "src.probes": "embed knn_accuracy knn_probe linear_accuracy prepare",
        "src.runs.runtime": "Runtime generator pick record seed_of",
    }
    for module, names in documented.items():
        for name in names.split():
            value = getattr(importlib.import_module(module), name)
            assert callable(value) and value.__doc__, name
