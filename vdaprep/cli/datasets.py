"""The command `vdaprep datasets`."""

from typing import Annotated, Any

import typer

from vdaprep.cli.views.output import console, print_json

EXAMPLE = "vdaprep datasets --json"


def command(as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False) -> None:
    """List what convert reads: size, licence, where to get it, what shards will weigh."""
    from vdaprep import sources
    from vdaprep.sources import _manifest
    from vdaprep.synthetic import layouts

    facts = [_manifest.load(name) for name in sources.names()]
    with_samples = layouts.names()
    rows: list[dict[str, Any]] = [
        row | {"role": sources.role(item.name), "sample": item.name in with_samples}
        for item in facts
        for row in _manifest.overview(item)
    ]
    if as_json:
        print_json(rows)
        return
    for role in sources.ROLES:
        console.print(f"{_HEADINGS[role]}:", style="bold")
        for item in (item for item in facts if sources.role(item.name) == role):
            samples = "" if item.name in with_samples else "; no samples"
            console.print(f"{item.name}: {item.title}; licence: {item.licence}; {item.home}{samples}")
            for row in (row for row in rows if row["dataset"] == item.name and row["version"]):
                console.print(f"  {row['version']}: {_sizes(row)}")


def _sizes(row: dict[str, Any]) -> str:
    figures = [f"{row[name]:,.0f} {unit}" for name, unit in _FIGURES.items() if row[name] is not None]
    estimates: dict[str, float] = row["shards_gb"]
    sizes = ", ".join(f"{size:,.{0 if size >= 10 else 1}f} GB {profile}" for profile, size in estimates.items())
    figures += [f"as shards about {sizes}"] if sizes else []
    figures += ["commercial use allowed"] if row["commercial"] else []
    return ", ".join(figures) or "sizes are not known"


_HEADINGS = {"training": "To train on", "evaluation": "To measure on"}
_FIGURES = {"frames": "frames", "download_gb": "GB to download"}
