"""The command `vdatrain variants`."""

from typing import Annotated

import typer

from vdaprep.cli.views.output import make_table, show
from vdaprep.errors import UsageError
from vdatrain.config import EncoderName

EXAMPLE = "vdatrain variants --encoder vits"


def command(
    encoder: Annotated[EncoderName, typer.Option(help="Encoder, by size.")] = "vits",
    size: Annotated[int, typer.Option(help="Pixels of a side, n x 14.")] = 518,
) -> None:
    """List the variants with their numbers of parameters and what a frame costs."""
    import torch

    from vdatrain.models import variants
    from vdatrain.models.flops import gflop_per_frame
    from vdatrain.models.layers.encoder import PATCH_SIZE

    if size < PATCH_SIZE or size % PATCH_SIZE:
        raise UsageError(f"--size {size}: expected a multiple of {PATCH_SIZE}.")
    table = make_table(
        "variant", "parameters", "its own", "GFLOP/frame", "what it is",
        title=f"with encoder {encoder}, frames of {size}x{size}",
    )  # fmt: skip
    table.columns[-1].justify, table.columns[-1].no_wrap, table.columns[-1].overflow = "left", False, "fold"
    for name in variants.names():
        with torch.device("meta"):
            model = variants.build(name, encoder=encoder)
        sizes = {key: value.numel() for key, value in model.named_parameters()}
        own = sum(count for key, count in sizes.items() if key.startswith(model.own_prefixes))
        cost = gflop_per_frame(model, size=size)
        table.add_row(name, f"{sum(sizes.values()):,}", f"{own:,}", f"{cost:.2f}", variants.summary(name))
    show([table])
