"""Where the commands print: results on stdout, everything else on stderr."""

from rich.console import Console

console = Console()
errors = Console(stderr=True, soft_wrap=True, highlight=False)
