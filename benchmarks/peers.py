"""What the speed of `src` is measured against: the study's loss as printed, and the same views by
other libraries.

Each function returns something to call, or raises ImportError where its library is not installed
(the bench extra).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as T

from src.augmentations import IMAGENET_MEAN, IMAGENET_STD
from src.encoders import Classifier

JITTER, SIGMA, SCALE = (0.4, 0.4, 0.4, 0.1), (0.1, 2.0), (0.2, 1.0)


def study_loss(z_i: Tensor, z_j: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent read off Eq. 1: every similarity by broadcasting, (2N)² × D numbers, and a loop over
    the 2N rows.
    """
    z = torch.cat([z_i, z_j])
    similarity = torch.exp(F.cosine_similarity(z[:, None], z[None], dim=2) / temperature)
    losses = []
    for row in range(len(z)):
        others = torch.arange(len(z), device=z.device) != row
        positive = (row + len(z_i)) % len(z)
        losses.append(-torch.log(similarity[row, positive] / similarity[row, others].sum()))
    return torch.stack(losses).mean()


def lightly_loss() -> Callable[[Tensor, Tensor], Tensor]:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=0.5)


def metric_learning_loss() -> Callable[[Tensor, Tensor], Tensor]:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    return SelfSupervisedLoss(NTXentLoss(temperature=0.5))


def pil_transform() -> T.Compose:
    """One PIL image → one view (3, 64, 64): torchvision's transforms as the published code strings
    them together.
    """
    return T.Compose(
        [
            T.RandomResizedCrop(64, scale=SCALE),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(*JITTER)], p=0.8),
            T.RandomGrayscale(0.2),
            T.GaussianBlur(3, SIGMA),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def kornia_views(antialias: bool = False) -> Callable[[Tensor], Tensor]:
    """A (N, 3, H, W) float batch in [0, 1] → views of the whole batch.

    antialias: crop as ours and PIL's do, by kornia's own function; its `RandomResizedCrop` never
    asks it to.
    """
    import kornia.augmentation as K
    from kornia.geometry.transform import crop_by_indices

    class Antialiased(K.RandomResizedCrop):
        def apply_transform(
            self, images: Tensor, params: dict, flags: dict, transform: Tensor | None = None
        ) -> Tensor:
            return crop_by_indices(
                images, params["src"], flags["size"], align_corners=False, antialias=True
            )

    crop = Antialiased if antialias else K.RandomResizedCrop
    return nn.Sequential(
        crop((64, 64), scale=SCALE),
        K.RandomHorizontalFlip(),
        K.ColorJitter(*JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((3, 3), SIGMA, p=1.0),
        K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
    )


class PilPairs(torch.utils.data.Dataset):
    """(N, H, W, 3) uint8 → two PIL views of each image, for a DataLoader's workers."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.transform = images, pil_transform()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[row])
        return self.transform(image), self.transform(image)


def naive_mc_dropout(model: Classifier, batch: Tensor, samples: int) -> Tensor:
    """T whole passes in a loop, dropout on, batch norm off: (T, n, C) log probabilities."""
    model.eval()
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout | nn.Dropout2d)
    with torch.inference_mode():
        return torch.stack([model(batch).log_softmax(-1) for _ in range(samples)])
