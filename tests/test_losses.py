"""NT-Xent against an explicit double loop, closed forms, lightly, and its lower bound."""

import math

import pytest
import torch

from src.losses import nt_xent, nt_xent_floor


def slow_nt_xent(z_i, z_j, temperature):
    """Eq. 1 of SimCLR term by term: 2k − 1 and 2k are partners, k is everything but i itself."""
    z = torch.stack([z_i, z_j], dim=1).flatten(0, 1)
    total = z.new_zeros(())
    for i in range(len(z)):
        partner = i + 1 if i % 2 == 0 else i - 1
        lengths = [z[i].norm() * z[k].norm() for k in range(len(z))]
        similarity = [z[i] @ z[k] / lengths[k] / temperature for k in range(len(z))]
        others = torch.stack([similarity[k] for k in range(len(z)) if k != i])
        total = total - torch.log(torch.exp(similarity[partner]) / torch.exp(others).sum())
    return total / len(z)


def pairs(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=dtype).unbind()


def simplex(n, dtype=torch.float64):
    """n unit vectors with cosine −1/(n − 1) between any two: corners of a cube's slice, centred."""
    corners = torch.eye(n, dtype=dtype) - 1 / n
    return corners / corners.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("n", "d", "tau"), [(1, 4, 0.5), (2, 3, 0.5), (5, 2, 0.1), (7, 16, 1.0), (4, 8, 0.07)]
)
def test_equals_the_double_loop_over_eq_1(n, d, tau):
    z_i, z_j = pairs(n, d)
    torch.testing.assert_close(
        nt_xent(z_i, z_j, tau), slow_nt_xent(z_i, z_j, tau), rtol=1e-12, atol=1e-12
    )


def test_default_temperature_is_one_half():
    z_i, z_j = pairs(4, 5)
    assert nt_xent(z_i, z_j) == nt_xent(z_i, z_j, 0.5) != nt_xent(z_i, z_j, 0.4)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_gradient_equals_the_double_loops_so_the_self_pair_carries_none(tau):
    # the loop never forms i = k: a gradient through the diagonal would show up as a difference here
    z_i, z_j = (z.requires_grad_() for z in pairs(4, 6))
    ours = torch.autograd.grad(nt_xent(z_i, z_j, tau), (z_i, z_j))
    slow = torch.autograd.grad(slow_nt_xent(z_i, z_j, tau), (z_i, z_j))
    torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)


def test_gradcheck_in_float64():
    z_i, z_j = (z.requires_grad_() for z in pairs(3, 4))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (z_i, z_j))


def test_swapping_the_views_changes_nothing():
    z_i, z_j = pairs(6, 8)
    torch.testing.assert_close(nt_xent(z_i, z_j), nt_xent(z_j, z_i), rtol=1e-13, atol=0)


def test_order_of_the_pairs_does_not_matter_but_the_pairing_does():
    z_i, z_j = pairs(6, 8)
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        nt_xent(z_i[shuffled], z_j[shuffled]), nt_xent(z_i, z_j), rtol=1e-13, atol=0
    )
    assert not torch.isclose(nt_xent(z_i, z_j[shuffled]), nt_xent(z_i, z_j), rtol=1e-3)


@pytest.mark.parametrize(("n", "tau"), [(1, 0.5), (3, 0.1), (32, 0.5)])
def test_identical_embeddings_give_log_of_the_candidates(n, tau):
    z = torch.full((n, 5), 0.7, dtype=torch.float64)
    assert nt_xent(z, z, tau).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)


def test_lengths_of_the_embeddings_do_not_matter():
    z_i, z_j = pairs(5, 7)
    lengths = torch.tensor([[1e-3], [0.1], [1.0], [20.0], [3e4]], dtype=torch.float64)
    torch.testing.assert_close(
        nt_xent(z_i * lengths, z_j / lengths), nt_xent(z_i, z_j), rtol=1e-12, atol=0
    )


def test_tiny_temperature_stays_finite():
    # exp(1/0.01) is beyond float32: only a log-sum-exp survives
    z_i, z_j = (z.requires_grad_() for z in pairs(16, 8, dtype=torch.float32))
    loss = nt_xent(z_i, z_j, 0.01)
    loss.backward()
    assert loss.isfinite() and z_i.grad.isfinite().all() and z_j.grad.isfinite().all()
    assert z_i.grad.abs().max() > 0
    expected = slow_nt_xent(z_i.detach().double(), z_j.detach().double(), 0.01)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_bfloat16_embeddings_are_compared_in_float32():
    z_i, z_j = (z.bfloat16() for z in pairs(32, 128, dtype=torch.float32))
    loss = nt_xent(z_i, z_j, 0.1)
    assert loss.dtype == torch.float32
    # not merely near: the same values, widened before anything is computed
    assert loss == nt_xent(z_i.float(), z_j.float(), 0.1)


def test_float64_stays_float64():
    assert nt_xent(*pairs(3, 4)).dtype == torch.float64


def test_autocast_does_not_round_the_similarities():
    z_i, z_j = pairs(32, 128, dtype=torch.float32)
    z_j = z_i + 1e-3 * z_j  # near twins: bfloat16 would call their cosine 1
    plain = nt_xent(z_i, z_j, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert (z_i @ z_j.T).dtype == torch.bfloat16  # else this test shows nothing
        assert nt_xent(z_i, z_j, 0.1) == plain


@pytest.mark.parametrize(
    ("n", "d", "tau"), [(2, 4, 0.5), (16, 32, 0.5), (16, 32, 0.1), (8, 3, 1.0)]
)
def test_equals_lightly_in_value_and_gradient(n, d, tau):
    reference = pytest.importorskip("lightly.loss").NTXentLoss(temperature=tau)
    z_i, z_j = (z.requires_grad_() for z in pairs(n, d, dtype=torch.float32))
    losses = nt_xent(z_i, z_j, tau), reference(z_i, z_j)
    gradients = [torch.autograd.grad(loss, (z_i, z_j)) for loss in losses]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 3, 32, 64])
def test_floor_is_reached_by_coinciding_partners_on_a_simplex(n, tau):
    z = simplex(n) if n > 1 else torch.ones(1, 3, dtype=torch.float64)
    assert nt_xent(z, z, tau).item() == pytest.approx(nt_xent_floor(n, tau), abs=1e-6)


@pytest.mark.parametrize(("n", "expected"), [(32, 2.18), (64, 2.86)])
def test_floor_of_the_usual_batches(n, expected):
    assert nt_xent_floor(n, 0.5) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("tau", [0.1, 0.5])
@pytest.mark.parametrize("n", [2, 8, 32])
def test_nothing_is_below_the_floor(n, tau):
    z = simplex(n)
    for seed in range(10):
        noise_i, noise_j = pairs(n, n, seed=seed)
        # random embeddings, and the optimum disturbed in any direction
        assert nt_xent(noise_i, noise_j, tau) > nt_xent_floor(n, tau)
        assert nt_xent(z + 0.01 * noise_i, z + 0.01 * noise_j, tau) > nt_xent_floor(n, tau)


def test_the_optimum_is_stationary():
    z_i, z_j = simplex(6).requires_grad_(), simplex(6).requires_grad_()
    gradients = torch.autograd.grad(nt_xent(z_i, z_j), (z_i, z_j))
    assert max(g.abs().max() for g in gradients) < 1e-12


def test_gradient_descent_on_free_embeddings_finds_the_floor():
    z = torch.stack(pairs(8, 8)).requires_grad_()
    start = nt_xent(*z).item()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(nt_xent(*z), z)
        z = (z - 20 * gradient).detach().requires_grad_()
    # random starts are well above; the last digit of the loss may round below
    assert nt_xent(*z).item() == pytest.approx(nt_xent_floor(8), abs=1e-9)
    assert start > nt_xent_floor(8) + 0.5


@pytest.mark.parametrize(
    ("shape_i", "shape_j"),
    [
        ((4, 8), (3, 8)),
        ((4, 8), (4, 7)),
        ((4, 8), (1, 8)),
        ((8,), (8,)),
        ((2, 4, 8), (2, 4, 8)),
        ((0, 8), (0, 8)),
    ],
)
def test_batches_that_are_no_pairs_are_refused(shape_i, shape_j):
    with pytest.raises(ValueError, match="batches of one shape"):
        nt_xent(torch.zeros(shape_i), torch.zeros(shape_j))


@pytest.mark.parametrize("tau", [0.0, -0.5, math.nan])
def test_temperature_must_be_positive(tau):
    with pytest.raises(ValueError, match="temperature must be positive"):
        nt_xent(*pairs(2, 3), tau)
    with pytest.raises(ValueError, match="temperature > 0"):
        nt_xent_floor(2, tau)


def test_floor_needs_a_pair():
    with pytest.raises(ValueError, match="n_pairs >= 1"):
        nt_xent_floor(0)


def kept_for_backward(n, d):
    """Bytes of the storages autograd keeps, each counted once."""
    z_i, z_j = (z.requires_grad_() for z in pairs(n, d, dtype=torch.float32))
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nt_xent(z_i, z_j)
    assert loss.requires_grad
    return sum(size for _, size in kept.values())


def test_memory_is_one_matrix_of_similarities_whatever_the_width_of_the_embeddings():
    n, matrix = 256, (2 * 256) ** 2 * 4
    for d in (16, 256):
        # the similarities once, and a few copies of the embeddings
        assert matrix <= kept_for_backward(n, d) <= matrix + 5 * 2 * n * (d + 1) * 4
