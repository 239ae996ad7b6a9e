from collections.abc import Callable

import pytest
import torch
import torch.nn as nn


@pytest.fixture(scope="session")
def randomize() -> Callable[[nn.Module], nn.Module]:
    """Gives a network weights that keep the size of activations, and statistics that show in what it gives."""

    def fill(network: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        for key, tensor in network.state_dict().items():
            if tensor.ndim > 1:
                nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)
            elif key.endswith("running_var") or (key.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1, generator=generator)
        return network.eval()

    return fill


@pytest.fixture(scope="session")
def constant_weights() -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    """The keys and shapes of a network with one number in each tensor, so that a file of them stays small."""

    def make(network: nn.Module) -> dict[str, torch.Tensor]:
        state_dict = network.state_dict()
        values = {key: 1 + index / len(state_dict) for index, key in enumerate(state_dict)}
        return {
            key: torch.tensor(values[key]).to(tensor.dtype).expand(tensor.shape) for key, tensor in state_dict.items()
        }

    return make
