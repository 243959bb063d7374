"""The encoder's shape, the heads, and what the stages and layers promise to unfreezing and to MC Dropout."""

import itertools

import pytest
import torch
from torch import nn

from src.encoders import ENCODERS, Classifier, build_encoder, classification_head, projection_head

torch.set_num_threads(1)  # tensors are small: more threads would mostly wait for one another


def encoder(**options):
    torch.manual_seed(0)
    return build_encoder("custom_cnn", **{"image_size": 16, **options})


def images(channels=3, size=16, n=2):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_parameter_count():
    # 9·(3·64 + 64·64 + 64·128 + 128·128 + 128·256 + 256·256) of the convolutions, 2·2·(64 + 128 + 256) of batch norm
    assert sum(p.numel() for p in encoder().parameters()) == 1_146_304


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


def test_every_parameter_belongs_to_exactly_one_stage():
    # unfreezing makes one optimiser group a stage: a parameter outside would never learn
    model = Classifier(encoder(), 4)
    in_stages = [id(p) for stage in model.stages for p in stage.parameters()]
    assert len(in_stages) == len(set(in_stages))
    assert set(in_stages) == {id(p) for p in model.parameters()}


def test_each_stage_is_two_convolutions_then_pooling_then_dropout():
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Dropout2d]
    for stage in encoder().stages:
        assert [type(layer) for layer in stage] == kinds


@pytest.mark.parametrize("build", [encoder, lambda: Classifier(encoder(), 4)], ids=["encoder", "classifier"])
def test_layers_applied_in_turn_are_the_forward_pass(build):
    model = build().eval()
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
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_dropout_is_off_in_eval_and_on_in_training():
    model = encoder(dropout=0.5).eval()
    assert torch.equal(model(images()), model(images()))
    # batch norm's own randomness is none: in training mode only the dropout mask differs between two passes
    model.train()
    assert not torch.equal(model(images()), model(images()))


def test_dropout_zero_has_no_effect():
    model = Classifier(encoder(dropout=0.0), 4, dropout=0.0).train()
    assert torch.equal(model(images()), model(images()))


def test_dropout_probability_arrives_in_every_dropout():
    rates = [m.p for m in Classifier(encoder(dropout=0.3), 4, dropout=0.2).modules() if isinstance(m, nn.Dropout)]
    rates_2d = [m.p for m in encoder(dropout=0.3).modules() if isinstance(m, nn.Dropout2d)]
    assert (rates, rates_2d) == ([0.2, 0.2], [0.3, 0.3, 0.3])


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
    torch.testing.assert_close(
        model.to(memory_format=layout)(images().contiguous(memory_format=layout)), encoder().eval()(images())
    )


def test_unknown_name_names_the_known_ones():
    with pytest.raises(ValueError, match="resnet999") as error:
        build_encoder("resnet999")
    assert all(name in str(error.value) for name in ENCODERS)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_named_encoder_keeps_the_contract(name):
    model = build_encoder(name, in_channels=4, image_size=16).eval()
    assert model(images(4)).shape == (2, model.feature_dim)
    assert len(model.stages) >= 2  # phase 2 of unfreezing opens the last of several


@pytest.mark.parametrize(
    "bad", [{"in_channels": 0}, {"image_size": 7}, {"dropout": -0.1}, {"dropout": 1.0}, {"dropout": float("nan")}]
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="in_channels >= 1"):
        build_encoder("custom_cnn", **bad)


def test_documented_names_can_be_imported():
    from src.augmentations import SimCLRAugmentation, normalize, random_dihedral, resize, to_unit
    from src.losses import nt_xent, nt_xent_floor
    from src.ood import entropy, mahalanobis, mc_dropout, metrics, pixel_statistics, scores
    from src.probes import embed, knn_accuracy, knn_probe, linear_accuracy, prepare
    from src.runtime import Runtime, generator, pick, record, seed_of

    functions = [
        normalize, random_dihedral, resize, to_unit, nt_xent, nt_xent_floor, entropy, mahalanobis, mc_dropout,
        metrics, pixel_statistics, scores, embed, knn_accuracy, knn_probe, linear_accuracy, prepare, generator, pick,
        record, seed_of, SimCLRAugmentation, Runtime,
    ]  # fmt: skip
    assert all(callable(f) and f.__doc__ for f in functions)
