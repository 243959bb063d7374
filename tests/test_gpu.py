"""A machine with one GPU, as far as `src` can tell: no tensor is on the wrong device, the host
waits at no step, and a step launches few kernels. On a real GPU the same functions run for real.
"""

import numpy as np
import pytest
import torch

from benchmarks.launches import fake_cuda
from src import checkpoints
from src.augmentations import SPECTRAL, SimCLRAugmentation
from src.augmentations.blocks import two_views
from src.data.splits import Split
from src.encoders import Classifier, build_encoder
from src.finetune import FinetuneConfig, finetune
from src.ood import Train, evaluate, mc_dropout, odin, penultimate
from src.pretrain import PretrainConfig, pretrain
from src.probes import embed, knn_probe
from src.runs import RunSettings
from src.runs import batches as batches_module
from src.runs.runtime import generator, pick, runtime_of

COUNT = 60
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 12, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 4
ROWS = np.arange(COUNT)
EVERYTHING = {"vflip": 0.5, "rotate": True, "solarize_p": 0.5, "noise_p": 0.5, "cutout_p": 0.5}


def classifier():
    torch.manual_seed(0)
    return Classifier(build_encoder("custom_cnn", image_size=16), 4).eval()


def probed(model, images, **how):
    return knn_probe(images, LABELS, ROWS[:30], ROWS[30:], 16, **how)(model.encoder)


def evaluated(model, images, **how):
    sets = (images, images[:6], images[6:12])
    return evaluate(model, *sets, samples=3, train_labels=LABELS, **how).id_scores.to_numpy()


# every public function that is given a model: (model, images, runtime=…) → numbers
OF_A_MODEL = {
    "embed": lambda model, images, **how: embed(model.encoder, images, 16, **how),
    "knn_probe": probed,
    "mc_dropout": lambda model, images, **how: mc_dropout(model, images, 3, **how),
    "penultimate": penultimate,
    "odin": odin,
    "Train.of": lambda model, *a, **how: Train.of(model, *a, LABELS, **how).features_N_D,
    "evaluate": evaluated,
}
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.filterwarnings("ignore")  # numbers that fake tensors lack are 0
@pytest.mark.parametrize(("lies", "asked"), [("cpu", None), ("cuda", None), ("cpu", "cuda")])
@pytest.mark.parametrize("name", OF_A_MODEL)
def test_images_go_where_the_model_is_and_it_goes_where_is_asked(name, lies, asked):
    with fake_cuda() as counted:
        model = classifier().to(lies)
        counted.kernels.clear()
        OF_A_MODEL[name](model, IMAGES, **({} if asked is None else {"runtime": pick(asked)}))
        assert {p.device.type for p in model.encoder.parameters()} == {asked or lies}
    convolutions = [name for name in counted.kernels if "conv" in name]
    assert bool(convolutions) == ((asked or lies) == "cuda")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OF_A_MODEL)
def test_on_a_real_device_the_default_is_the_models_own(name, device):
    function, model = OF_A_MODEL[name], classifier()
    asked = function(model, IMAGES, runtime=pick(device))
    assert np.isfinite(asked).all()
    np.testing.assert_array_equal(function(model, IMAGES), asked)


def test_a_model_that_was_moved_can_still_learn():
    model = classifier()
    mc_dropout(model, IMAGES[:2], 2, runtime=pick(DEVICES[-1]))
    model(torch.zeros(2, 3, 16, 16, device=DEVICES[-1])).sum().backward()


def test_a_model_without_weights_computes_on_what_there_is():
    assert runtime_of(torch.nn.Flatten()) == pick()


# Trainings, whole, on tensors without numbers


@pytest.fixture
def unsaved(monkeypatch):
    """Checkpoints of tensors without numbers are not written."""
    monkeypatch.setattr(checkpoints, "save", lambda path, *_: path)
    monkeypatch.setattr(checkpoints, "copy", lambda *_: None)
    monkeypatch.setattr(checkpoints, "restore", lambda *_: None)  # it would look at them


def pretrained(out, steps, batch=4, size=16, channels=3, memory=80e9, **config):
    images = np.zeros((steps * batch, 20, 20, channels), np.uint8 if channels == 3 else np.uint16)
    config = {"epochs": 1, "batch_size": batch, "in_channels": channels, **config}
    with fake_cuda(memory) as counted:
        settings = RunSettings(runtime=pick("cuda", compile=False), resume=False)
        pretrain(images, PretrainConfig(image_size=size, **config), out, settings=settings)
    return counted


def finetuned(out, steps, memory=80e9):
    rows = np.arange(4 * steps + 8)
    images, split = (
        np.zeros((len(rows), 20, 20, 3), np.uint8),
        Split(rows[:-8], rows[-8:-4], rows[-4:]),
    )
    config = FinetuneConfig(phases=(0, 0, 1), batch_size=4, image_size=16)
    with fake_cuda(memory) as counted:
        settings = RunSettings(runtime=pick("cuda"), resume=False)
        finetune(images, rows % 4, split, list("abcd"), config, out, settings=settings)
    return counted


@pytest.mark.parametrize(
    "run",
    [
        lambda *a: pretrained(*a, augmentation=EVERYTHING),
        lambda *a: pretrained(*a, channels=12, augmentation=SPECTRAL, memory=1e3),  # streamed
        finetuned,
    ],
    ids=["pretrain", "twelve bands, streamed", "finetune"],
)
@pytest.mark.filterwarnings("ignore:a step of .* will need")  # so little memory is there
def test_the_host_waits_no_more_often_for_more_steps(monkeypatch, unsaved, tmp_path, run):
    monkeypatch.setattr(batches_module, "BLOCK", 2)  # blocks of steps: one, and two
    few, more = run(tmp_path, 2), run(tmp_path, 4)
    streams = {"synchronize"}  # by the thread that reads ahead, of its own stream
    waits = {wait: n - few.waits[wait] for wait, n in more.waits.items() if n > few.waits[wait]}
    assert not {wait for wait in waits if wait.split(":")[0] not in streams}
    assert more.total > few.total + 100


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "counts"),
    [
        (lambda model, images: embed(model, images, 16, batch_size=4), (4, 12)),
        (lambda model, images: mc_dropout(model, images, 3, batch_size=4), (4, 12)),
        (lambda model, images: odin(model, images, batch_size=4), (4, 12)),
        (penultimate, (250, 600)),
        (lambda model, images: evaluate(model, images[:60], images, images[:9], 2), (60, 130)),
    ],
    ids=["embed", "mc_dropout", "odin", "penultimate", "evaluate"],
)
@pytest.mark.filterwarnings("ignore:a step of .* will need")  # so little memory is there
def test_the_host_waits_no_more_often_for_more_images(function, counts):
    waits = []
    for count in counts:
        with fake_cuda() as counted:
            function(classifier().to("cuda"), np.resize(IMAGES, (count, 12, 12, 3)))
        waits.append(counted.waits)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("extras", [{}, EVERYTHING], ids=["default", "everything"])
def test_views_of_a_block_are_few_launches_a_step(extras):
    with fake_cuda() as counted:
        images = [torch.empty(64, 120, 120, 3, dtype=torch.uint8, device="cuda")] * 16
        batches = [batch.permute(0, 3, 1, 2) for batch in images]
        augment = SimCLRAugmentation(64, **extras)
        made = list(two_views(batches, (0, 1, 0), augment, dtype=torch.bfloat16))
    assert {(tuple(v.shape), v.dtype, v.device.type) for v in made} == {
        ((128, 3, 64, 64), torch.bfloat16, "cuda")
    }
    assert made[3].is_contiguous(memory_format=torch.channels_last)
    noise = 2 if extras else 0  # each step's own, drawn on the device
    assert counted.total / 16 < 13 + 2 + noise


def test_a_step_of_the_network_is_few_launches(unsaved, tmp_path):
    few, more = (pretrained(tmp_path, steps) for steps in (2, 4))  # one block of views in both
    assert 100 < (more.total - few.total) / 2 <= 145  # with 13 for views no more than 160


def test_large_batches_are_not_made_in_blocks_that_outgrow_the_memory():
    with fake_cuda():
        for count, expected in ((64, 16), (256, 6), (4096, 1)):
            batch = torch.empty(count, 120, 120, 3, dtype=torch.uint8, device="cuda")
            views = two_views(
                iter([batch.permute(0, 3, 1, 2)] * 16), (0, 1, 0), SimCLRAugmentation()
            )
            first = next(views)
            assert first.untyped_storage().nbytes() == expected * first.nbytes


def test_noise_is_drawn_on_the_gpu_from_the_steps_own_generator():
    augment = SimCLRAugmentation(64, noise_p=0.5)
    with fake_cuda() as counted:
        device = torch.device("cuda")
        drawn = augment.draw((64, 3), [generator(0, 1, n) for n in range(4)], (0, 1), device)
        assert drawn["noise_pixels"].shape == (256, 3, 64, 64)
    assert counted.kernels["randn"] == 4 and not counted.waits


def test_a_run_that_will_not_fit_is_told_before_it_starts(unsaved, tmp_path):
    with pytest.warns(UserWarning, match=r"a step of 4 images will need .* GB .* recompute=True"):
        pretrained(tmp_path, 2, memory=1e6)


def test_deterministic_algorithms_are_those_of_the_training_alone():
    def flags():
        cudnn = torch.backends.cudnn.deterministic
        return cudnn, torch.are_deterministic_algorithms_enabled()

    with fake_cuda():
        with pick("cuda", deterministic=True).reproducible():
            assert flags() == (True, True)
        with pick("cuda").reproducible():
            assert flags() == (False, False)
    assert flags() == (False, False)


# On a real one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_views_made_on_a_real_gpu_are_those_of_the_cpu():
    x = torch.as_tensor(IMAGES[:40]).permute(0, 3, 1, 2)
    made = [
        torch.stack([*two_views(x.to(device).split(2), (0, 1, 0), SimCLRAugmentation(16))]).cpu()
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*made, rtol=0, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("compile", [False, True])
def test_a_real_gpu_trains_and_repeats_itself_to_the_bit_where_asked(tmp_path, compile):
    settings = [RunSettings(runtime=pick("cuda", compile=compile, deterministic=True))] * 2
    config = PretrainConfig(epochs=2, batch_size=4, image_size=16)
    first, again = (
        pretrain(IMAGES, config, tmp_path / str(n), settings=how) for n, how in enumerate(settings)
    )
    assert np.isfinite(first.history["loss"][1:]).all()
    assert first.history["loss"].tolist()[1:] == again.history["loss"].tolist()[1:]
