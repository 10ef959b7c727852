"""Samples under stress: images disturbed before differences are taken of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from vdaprep.shards.pictures.stress import Kinds, Stress
from vdatrain.data.altered.differences import decoded
from vdatrain.data.samples import Sample


@dataclass(frozen=True)
class StressPlan:
    """What the images of an evaluation are put under."""

    kinds: Kinds = ()
    """Kinds of stress that come together; empty: none."""
    seed: int = 0
    """With each clip's key, what strengths and times are drawn from."""

    def of(self, key: str) -> Stress:
        """Return the stress of a clip, or of the trajectory that begins with it."""
        return Stress(self.kinds, self.seed, key)

    def apply(self, sample: Sample) -> Sample:
        """Return a sample with disturbed images, whose differences are taken of these.

        Stored differences are of images as they were and are left out. Frames that a stride passes over are not
        counted, so that flicker of period 1 is one to the model, too.
        """
        if not self.kinds:
            return sample
        stress, stride = self.of(sample.key), sample.window.shape.stride
        numbered = zip(sample.window.frame_numbers, sample.rgb.cpu().numpy(), strict=True)
        images = np.stack([stress.apply(rgb, frame=number // stride) for number, rgb in numbered])
        disturbed = replace(sample, images=torch.from_numpy(images))
        return disturbed if sample.diff is None else decoded(disturbed)
