"""Models for tests, none of whose parts does nothing: temporal modules and branches begin as no-ops."""

import torch
from torch import nn

from vdatrain.models import variants


def stirred(model: nn.Module) -> nn.Module:
    """Move every parameter off its start, so that what begins as a no-op takes part."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def lively(variant: str) -> nn.Module:
    """Build a tiny model whose temporal modules and branch have a say."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = variants.build(variant, encoder="tiny")
        for name, parameter in model.named_parameters():
            if "proj_out" in name or name.startswith("branch."):
                nn.init.normal_(parameter, std=0.3)
    return model
