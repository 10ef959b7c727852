"""Settings that keep a conversion within a number of bytes: chosen once, taken up again by runs that go on with it."""

import shlex
from collections.abc import Callable

from vdaprep.archive import OnListing
from vdaprep.budget import Budget, fit
from vdaprep.options import ConversionOptions
from vdaprep.outputs import Output
from vdaprep.plan import find_raw, settings_of
from vdaprep.probes import Prober
from vdaprep.repair import stored_options


def within_budget(
    conversion: ConversionOptions,
    dataset: str,
    *,
    budget: Budget,
    output: Output,
    on_listing: OnListing,
    on_notice: Callable[[str], None],
) -> ConversionOptions:
    """Return the options with size, quality, differences, stride and trajectories as the budget has them.

    Those of shards that are there already are kept. Raises UsageError, saying what the least would be, if nothing fits.
    """
    stored = stored_options(output, dataset=dataset)
    if stored is not None:
        on_notice(f"{output.place()}: goes on with the settings that were chosen when it was begun")
        return conversion.with_choice(*settings_of(stored, dataset=dataset))
    settings, selection = conversion.settings(), conversion.selection()
    raw = find_raw(dataset, raw=conversion.raw_of(dataset), options=settings.source, on_listing=on_listing)
    with Prober(raw.raw) as prober:
        choice = fit(raw, settings=settings, selection=selection, budget=budget, prober=prober)
    chosen = conversion.with_choice(choice.plan.settings, choice.selection)
    on_notice(f"--budget chose: {shlex.join(chosen.arguments()) or 'nothing but the defaults'}")
    return chosen
