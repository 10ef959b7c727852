"""`vdatrain run` on two ranks whose training cannot go on: both end, and say of both what it was."""

import json
import re
from pathlib import Path

import pytest

from tests.distributed.ranks import on_two_ranks

MAX_SKIPPED = 3  # fewer than outside of tests
SMALL = {"encoder": "tiny", "frames": 2, "size": 28, "batch": 1, "steps": 100, "warmup": 1, "workers": 0}
RARELY = {"eval_split": "none", "log_every": MAX_SKIPPED, "eval_every": 1000, "track": "none"}


@pytest.mark.slow
def test_gradients_that_are_not_finite_end_all_ranks_with_the_clips_of_all(toy_shards: Path, tmp_path: Path) -> None:
    options = {**SMALL, **RARELY, "shards": str(toy_shards)}
    first, second = on_two_ranks("spoil", folder=str(tmp_path), options=options, max_skipped=MAX_SKIPPED)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    sentence, step = json.loads(first.out)
    assert [sentence, step] == json.loads(second.out)
    assert int(step) == MAX_SKIPPED
    assert sentence.startswith(f"the gradient was not finite for {MAX_SKIPPED} steps in a row, with tartanair-")
    assert sentence.endswith("; try a lower --lr, or a finer --precision if there is one.")
    assert set(re.findall(r"-seen-by-(\d)", sentence)) == {"0", "1"}
