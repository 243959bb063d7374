"""What arithmetic allows: operations and bytes a view, counted, against what a GPU's data sheet
promises.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import VIEWS, network
from src.encoders import ENCODERS
from src.pretrain import PretrainConfig

# dense bfloat16 operations with float32 sums, and bytes a second, as the makers' data sheets have
# them
GPUS = {"H100 SXM": (989e12, 3.35e12), "RTX 3090": (71e12, 0.936e12)}
REACHED = (
    0.4  # share of the peak that such convolutions reach: a guess, to be replaced by a measurement
)


def flops_per_view(encoder: str, batch: int = 4) -> float:
    """Of forward and backward, by torch's counter: a product and a sum are two."""
    model = network(
        PretrainConfig(encoder=encoder), torch.device("cpu"), torch.channels_last
    ).train()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(batch, 3, 64, 64)).sum().backward()
    return counter.get_total_flops() / batch


def bytes_per_view(encoder: str, batch: int = 8) -> float:
    """Lower bound of the memory traffic in bfloat16: every layer's output is written once, read by
    the next, and both again for its gradient. Weights are shared by a batch and left out. Fused
    layers need less, normalisations more.
    """
    model = network(
        PretrainConfig(encoder=encoder), torch.device("cpu"), torch.channels_last
    ).train()
    elements = 0

    def count(_, __, output) -> None:
        nonlocal elements
        elements += output.numel()

    for module in model.modules():
        if not list(module.children()) and not isinstance(module, torch.nn.Identity):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.randn(batch, 3, 64, 64))
    return 4 * 2 * elements / batch


def table(encoders: tuple[str, ...] = ENCODERS) -> list[dict]:
    """One row an encoder and GPU: the rate each limit allows, and the study's 300 epochs in hours
    at the lower one.
    """
    result = []
    for encoder in encoders:
        flops, traffic = flops_per_view(encoder), bytes_per_view(encoder)
        for gpu, (peak, bandwidth) in GPUS.items():
            compute, memory = REACHED * peak / flops, bandwidth / traffic
            result.append(
                {
                    "what": f"{encoder}, {gpu}",
                    "GFLOP/view": flops / 1e9,
                    "MB/view": traffic / 1e6,
                    f"views/s at {REACHED:.0%} of peak": compute,
                    "views/s by bandwidth": memory,
                    "hours for 161.8 M views": VIEWS / min(compute, memory) / 3600,
                }
            )
    return result
