"""Where the commands print: results on stdout, everything else on stderr."""

from rich.console import Console

from vdatrain.launch import who_speaks

console = Console()
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def warn(sentence: str) -> None:
    """Say on stderr what went wrong although the command goes on."""
    errors.print(f"vdatrain{who_speaks()}: {sentence}", markup=False)
