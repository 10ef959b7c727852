"""A page written: template, styles, scripts and Plotly in one file.

Names of data sets, arms and folders come from outside: the template escapes every text, `charts` what Plotly shows, and
data reach the scripts as JSON in which no tag can begin. The page's policy for browsers (Content-Security-Policy)
allows these scripts, by their SHA-256, and no other, and nothing from elsewhere.
"""

import base64
import gzip
import hashlib
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline

from vdaprep.storage.atomic import write_text
from vdatrain.evaluation.report import charts, clips
from vdatrain.evaluation.report.content import Page

_HERE = Path(__file__).parent
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, page: Page) -> None:
    """Write a page, some 2 MB and what the images of the clips take; raises OutputError."""
    text = render(page)
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def render(page: Page) -> str:
    """Return a page as text."""
    library = plotly.offline.get_plotlyjs()
    script = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("charts.js", "player.js"))
    return _TEMPLATES.get_template("page.html").render(
        page=page,
        data=page_data(page),
        style=_text("page.css"),
        script=script,
        # Compressed it is 2 MB instead of 5; the page's script unpacks it.
        library=base64.b64encode(gzip.compress(library.encode("utf-8"), mtime=0)).decode("ascii"),
        hashes=[_digest(text) for text in (library, script)],
    )


def page_data(page: Page) -> dict[str, Any]:
    """Return what the page's scripts draw."""
    return {
        "arms": [{"name": arm, **charts.style_of(number)} for number, arm in enumerate(page.arms)],
        "charts": {"curves": charts.curves(page), "forest": charts.forest(page), "scores": charts.scores(page)},
        "clips": clips.for_player(page.clips, page.arms),
        "colours": clips.colours(),
    }


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
