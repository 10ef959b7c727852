"""The command `vdatrain variants`."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from vdaprep.errors import UsageError
from vdatrain.cli.output import console

EXAMPLE = "vdatrain variants --encoder vits"


def command(
    encoder: Annotated[str, typer.Option(help="tiny, vits, vitb or vitl.")] = "vits",
    size: Annotated[int, typer.Option(help="Pixels of a side, n x 14.")] = 518,
) -> None:
    """List the variants with their numbers of parameters and what a frame costs."""
    import torch

    from vdatrain.models import variants as known
    from vdatrain.models.flops import gflop_per_frame
    from vdatrain.models.layers.encoder import PATCH_SIZE

    if size < PATCH_SIZE or size % PATCH_SIZE:
        raise UsageError(f"--size {size}: expected a multiple of {PATCH_SIZE}.")
    caption = f"with encoder {encoder}, frames of {size}x{size}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=caption, title_justify="left")
    for title in ("variant", "parameters", "its own", "GFLOP/frame", "what it is"):
        table.add_column(title, justify="left" if title.startswith(("variant", "what")) else "right")
    for name in known.names():
        with torch.device("meta"):
            model = known.build(name, encoder=encoder)
        sizes = {key: value.numel() for key, value in model.named_parameters()}
        own = sum(count for key, count in sizes.items() if key.startswith(known.own_prefixes(name) or ("\0",)))
        cost = gflop_per_frame(model, size=size)
        table.add_row(name, f"{sum(sizes.values()):,}", f"{own:,}", f"{cost:.2f}", known.summary(name))
    console.print(table)
