"""Published weights by a short name: their file on the hub, its licence and hash.

    vda-small, vda-base, vda-large                         Video Depth Anything, relative
    vda-metric-small, vda-metric-base, vda-metric-large    the same, depth in metres
    dav2-small, dav2-base, dav2-large                      Depth Anything V2, of single images

A file of its published name in the current folder is taken before the hub is asked, so a machine without a network
needs that file and nothing else. Licences and names are those of the authors' pages (huggingface.co/depth-anything).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vdaprep.errors import DataError
from vdaprep.shards.records import DataTerms
from vdatrain.models import tensor_files

_VDA = "Chen et al., Video Depth Anything: Consistent Depth Estimation for Super-Long Videos, CVPR 2025"
_DAV2 = "Yang et al., Depth Anything V2, NeurIPS 2024"
_FREE, _NOT_FREE = ("Apache-2.0", True), ("CC BY-NC 4.0", False)


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights on the hub."""

    name: str
    """What `--init` and `--checkpoint` call it."""
    repository: str
    """Its repository on huggingface.co."""
    file: str
    """The file's name there."""
    encoder: str
    """The encoder that it is of: vits, vitb or vitl."""
    terms: DataTerms
    """The weights' own licence; their authors do not list terms of the data that they trained on."""
    sha256: str | None = None
    """The file's SHA-256, where it is known; otherwise the one that the hub states is all there is to compare with."""

    @property
    def page(self) -> str:
        """Where a browser finds the file."""
        return f"https://huggingface.co/{self.repository}/blob/main/{self.file}"


@dataclass(frozen=True)
class FetchedWeights:
    """Published weights on this machine's disk."""

    published: PublishedWeights
    """Which they are."""
    path: Path
    """The file."""
    sha256: str
    """Its SHA-256."""

    def __str__(self) -> str:
        """Return name, file and hash, for messages."""
        return f"{self.published.name} ({self.path}, SHA-256 {self.sha256})"


def _known() -> Mapping[str, PublishedWeights]:
    # Of these two the hash is stated alike by several projects that pin it; no such statement of the others was found.
    hashes = {
        "vda-small": "13379300b739e659f076a59d52e9801bd8d38c541a7e71f73bbca4dcfb013609",
        "vda-metric-small": "3c28432b4e1f0d7bb31cad5151b6313b49457db5aa58d82e85bfb0f8b1311b33",
    }
    families = {
        "vda": ("Video-Depth-Anything", "video_depth_anything", _VDA),
        "vda-metric": ("Metric-Video-Depth-Anything", "metric_video_depth_anything", _VDA),
        "dav2": ("Depth-Anything-V2", "depth_anything_v2", _DAV2),
    }
    sizes = {"small": ("vits", _FREE), "base": ("vitb", _NOT_FREE), "large": ("vitl", _NOT_FREE)}
    found: dict[str, PublishedWeights] = {}
    for family, (repository, stem, citation) in families.items():
        for size, (encoder, (licence, commercial)) in sizes.items():
            name, file = f"{family}-{size}", f"{stem}_{encoder}.pth"
            terms = DataTerms(f"weights {name}", licence, citation, commercial)
            place = f"depth-anything/{repository}-{size.capitalize()}"
            found[name] = PublishedWeights(name, place, file, encoder, terms, hashes.get(name))
    return MappingProxyType(found)


PUBLISHED: Mapping[str, PublishedWeights] = _known()
"""All weights that have a name."""


def named(text: str | Path) -> PublishedWeights | None:
    """Return the published weights of this name; None where it is another's, or a file has it."""
    return None if Path(text).exists() else PUBLISHED.get(str(text))


def fetch(name: str) -> FetchedWeights:
    """Find published weights in the current folder or the hub's cache, or download them.

    Args:
        name: One of `PUBLISHED`.

    Raises:
        DataError: They cannot be fetched, which says which file to put where, or the file is another than is known.
    """
    published = PUBLISHED[name]
    here = Path(published.file)
    path = here if here.is_file() else _download(published)
    digest = tensor_files.sha256_of(path)
    if published.sha256 not in (None, digest):
        raise DataError(
            f"{path}: has SHA-256 {digest}, but {published.name} is known to have {published.sha256}; it was damaged "
            f"or changed: fetch it again from {published.page}, or give --init FILE to take it as it is."
        )
    return FetchedWeights(published, path, digest)


def _download(published: PublishedWeights) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it warns of each of its attempts
    try:
        return Path(huggingface_hub.hf_hub_download(published.repository, published.file))
    except (OSError, RuntimeError, ValueError, HfHubHTTPError) as error:
        raise DataError(
            f"{published.name}: cannot be fetched from the hub ({type(error).__name__}); bring {published.file} "
            f"({published.terms.licence}) of {published.page} to this machine and put it into the folder where you "
            "start the command, or give its path instead of the name."
        ) from error
