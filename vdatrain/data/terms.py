"""Under which terms the data of a run may be used; what a checkpoint says of it."""

from collections.abc import Iterable, Sequence

from vdaprep.errors import UsageError
from vdaprep.shards.dataset import ShardCollection
from vdaprep.shards.records import DataTerms
from vdatrain.config import TrainConfig, parse_mix


def terms_of_run(
    config: TrainConfig, shards: ShardCollection, images: ShardCollection | None = None
) -> tuple[DataTerms, ...]:
    """Return the terms of the data sets that a run trains on, and of their teachers.

    Raises UsageError where `licence` takes none but commercial use and one of them does not allow it.
    """
    mix = parse_mix(config.mix)
    found = shards.terms(split=config.train_split, takes=mix.takes)
    beside = () if images is None else images.terms(split=config.train_split)
    _check_images(config, beside)
    refused = [terms for terms in found if not terms.commercial]
    if config.licence == "commercial" and refused:
        names = "; ".join(terms.named(unsaid="its shards do not say") for terms in refused)
        raise UsageError(
            f"--licence commercial: is not what these data sets are known to allow: {names}; leave them out with "
            f"--mix {','.join(f'{terms.dataset}=0' for terms in refused)}, or train with --licence any."
        )
    return union(found, beside)


def _check_images(config: TrainConfig, beside: Sequence[DataTerms]) -> None:
    refused = [terms for terms in beside if not terms.commercial]
    if config.licence == "commercial" and refused:
        raise UsageError(
            f"--licence commercial: --images are not known to allow it, for {sentence(refused)}; give others, or train "
            "with --licence any."
        )


def check_weights(config: TrainConfig, terms: Sequence[DataTerms]) -> None:
    """Raise UsageError where the weights in `init` forbid the use that `licence` asks for."""
    refused = [found for found in terms if not found.commercial]
    if config.licence == "commercial" and refused:
        raise UsageError(
            f"--licence commercial: --init {config.init} is not known to allow it, for {sentence(refused)}; begin with "
            "other weights, or train with --licence any."
        )


def union(*several: Iterable[DataTerms]) -> tuple[DataTerms, ...]:
    """Return all terms once, in order."""
    return tuple(dict.fromkeys(terms for each in several for terms in each))


def sentence(found: Sequence[DataTerms]) -> str:
    """Return names and licences in one line."""
    return "; ".join(terms.named() for terms in found)
