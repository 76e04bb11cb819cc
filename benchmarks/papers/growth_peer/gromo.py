"""The same growth by gromo, in PyTorch."""

import importlib.util
from typing import Any

import numpy as np

TINY: dict[str, Any] = {}  # its defaults
GRADMAX = {
    "compute_delta": False, "use_covariance": False, "alpha_zero": True,
    "use_projection": False, "ignore_singular_values": True,
}  # fmt: skip
FACTORS = (0.1, 0.3, 1.0, 3.0)


def is_there() -> bool:
    return all(importlib.util.find_spec(name) for name in ("gromo", "torch"))


def run(start: Any, data: Any, batches: Any, more: int, rate: float, how: Any) -> Any:
    """One net `{layer: {kernel, bias}}` trained on rows of batches and grown between them.

    Returns:
      Layers at the end, and the loss on all rows before and after each growth.
    """
    import torch
    from gromo.containers.growing_mlp import GrowingMLP
    from gromo.utils.training_utils import compute_statistics

    x, y = torch.tensor(np.asarray(data[0])), torch.tensor(np.asarray(data[1])).long()
    features, units = np.shape(start["a"]["kernel"])
    net = GrowingMLP(features, 10, units, 1, activation=torch.nn.Tanh(), device=torch.device("cpu"))
    with torch.no_grad():
        for layer, values in zip(net.layers, start.values(), strict=True):
            layer.layer.weight.copy_(torch.tensor(np.array(values["kernel"]).T))
            layer.layer.bias.copy_(torch.tensor(np.array(values["bias"])))
    loss = torch.nn.CrossEntropyLoss()
    whole = lambda forward: float(loss(forward(x), y).detach())
    jumps = []
    for phase, rows in enumerate(batches):
        if phase:
            before = whole(net)
            grow(net, (x, y), more, how, compute_statistics, lambda: whole(net.extended_forward))
            jumps.append((before, whole(net)))
        adam = torch.optim.Adam(net.parameters(), rate)
        for row in torch.tensor(np.asarray(rows)).long():
            adam.zero_grad()
            loss(net(x[row]), y[row]).backward()
            adam.step()
    numbers = lambda x: x.detach().numpy().T
    layers = {
        name: {"kernel": numbers(layer.layer.weight), "bias": numbers(layer.layer.bias)}
        for name, layer in zip(start, net.layers, strict=True)
    }
    return layers, jumps


def grow(net: Any, data: Any, more: int, how: Any, statistics: Any, extended: Any) -> None:
    """One growth, by statistics of all rows and the best of some factors."""
    import torch

    rows = torch.utils.data.TensorDataset(*data)
    loader = torch.utils.data.DataLoader(rows, batch_size=256)
    statistics(net, loader, torch.nn.CrossEntropyLoss(reduction="sum"))
    net.compute_optimal_updates(maximum_added_neurons=more, **how)
    net.reset_computation()
    net.dummy_select_update()
    found = []
    for factor in FACTORS:
        net.set_scaling_factor(factor)
        found.append((extended(), factor))
    net.set_scaling_factor(min(found)[1])
    net.apply_change()
