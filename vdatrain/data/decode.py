"""Images and depth of samples, decoded on the device that they are on.

On a GPU in torch, without waiting for it; on the CPU by `vdaprep.shards.codec`, which takes a fraction of the time
there. Both work in whole numbers and give the same.
"""

import functools
import math

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, UInt8
from torch import Tensor
from torch.nn import functional as F

from vdaprep.shards import codec, depth_codes
from vdaprep.shards.codec import interpolation, sparse
from vdaprep.shards.codec.interpolation import FIRST, IN_BLOCK
from vdaprep.shards.metadata import DepthSpec


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor of the host to a device; to a GPU through page-locked memory.

    From other memory the driver stages the copy and may let the host wait for what the stream has still to do, also
    with `non_blocking`.
    """
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


# ------------------------------------------------------------------------------------------------------------- images


def decode_images(images: UInt8[Tensor, "t ..."], size: tuple[int, int]) -> UInt8[Tensor, "t h w 3"]:
    """Return RGB, equal to that of `codec.rgb_of_planes`.

    images: `[t, h, w, 3]`, returned as they are, or luma and chroma as `codec.decode_planes` gives them. size: height
    and width.
    """
    if images.ndim == 4:
        return images
    if images.device.type != "cpu":
        return rgb_of_planes(images, size)
    out = np.empty((len(images), *size, 3), np.uint8)
    for planes, rgb in zip(images.numpy(), out, strict=True):
        codec.rgb_of_planes(planes, out=rgb)
    return torch.from_numpy(out)


def rgb_of_planes(planes: UInt8[Tensor, "t rows columns"], size: tuple[int, int]) -> UInt8[Tensor, "t h w 3"]:
    """Convert in torch; `codec.rgb_of_planes` has the formulas."""
    count, rows, columns = planes.shape
    height, width = size
    tall = rows * 2 // 3
    luma = planes[:, :height, :width].to(torch.int32)
    chroma = planes[:, tall:].reshape(count, 2, tall // 2, columns // 2)
    blue, red = (_twice(chroma)[..., :height, :width] - 128).unbind(1)
    half = 1 << 13
    shifts = (22987 * red + half, half - 11698 * red - 5636 * blue, 29049 * blue + half)
    return torch.stack([(luma + (shift >> 14)).clamp(0, 255) for shift in shifts], dim=-1).to(torch.uint8)


def _twice(chroma: UInt8[Tensor, "t 2 ch cw"]) -> Int32[Tensor, "t 2 h w"]:
    """Enlarge to twice the sides; what lies outside is as the border."""
    padded = F.pad(chroma.float(), (1, 1, 1, 1), mode="replicate").to(torch.int32)  # it pads no integers
    between = _three_to_one(_three_to_one(padded).mT).mT
    return (between + 8) >> 4


def _three_to_one(values: Int32[Tensor, "*b n m"]) -> Int32[Tensor, "*b n k"]:
    """Double the inner values of rows: 3 parts of it and 1 of the one before, or behind."""
    inner = 3 * values[..., 1:-1]
    return torch.stack([inner + values[..., :-2], inner + values[..., 2:]], dim=-1).flatten(-2)


# -------------------------------------------------------------------------------------------------------------- depth


def decode_depth(
    depth_bytes: UInt8[Tensor, "t n"], spec: DepthSpec, *, size: tuple[int, int]
) -> Float32[Tensor, "t h w"]:
    """Return metres (nan: unknown, inf: sky), equal to `codec.decode_depth`."""
    return depth_table(spec, depth_bytes.device)[decode_codes(depth_bytes, spec, size=size)]


def decode_codes(
    depth_bytes: UInt8[Tensor, "t n"], spec: DepthSpec, *, size: tuple[int, int]
) -> Int32[Tensor, "t h w"]:
    """Undo packing and prediction of what `codec.decompress_depth` gives."""
    if depth_bytes.device.type != "cpu":
        return codes_of_bytes(depth_bytes, spec, size=size)
    height, width = size
    out = np.empty((len(depth_bytes), height, width), np.int32)
    for unpacked, codes in zip(depth_bytes.numpy(), out, strict=True):
        planes = codec.planes_of_bytes(unpacked, spec, height=height, width=width)
        codes[...] = codec.codes_of_planes(planes, spec)
    return torch.from_numpy(out)


def codes_of_bytes(
    depth_bytes: UInt8[Tensor, "t n"], spec: DepthSpec, *, size: tuple[int, int]
) -> Int32[Tensor, "t h w"]:
    """Decode in torch."""
    if spec.packing == "interpolation":
        return codec.codes_of_values(_values_of(depth_bytes, size), steps=spec.steps, xp=torch)
    if spec.packing == "sparse":
        return _codes_of_sparse(depth_bytes, size)
    low, high = _planes_of(depth_bytes, spec, size).to(torch.int32).unbind(1)
    zigzag = low | (high << 8)
    residual = (zigzag >> 1) ^ -(zigzag & 1)
    rows = residual.cumsum(-1, dtype=torch.int32) & 0xFFFF  # cut to 16 bits before a sum can leave 32
    return rows.cumsum(-2, dtype=torch.int32) & 0xFFFF


def _codes_of_sparse(depth_bytes: UInt8[Tensor, "t n"], size: tuple[int, int]) -> Int32[Tensor, "t h w"]:
    """Return the codes of lone points, 0 elsewhere, as the table in `codec.sparse` says."""
    of_mask = sparse.mask_bytes(*size)
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=depth_bytes.device)
    known = (depth_bytes[:, :of_mask, None] >> shifts & 1).flatten(1)[:, : math.prod(size)].to(torch.int32)
    count = known.sum(1, keepdim=True)
    place = (known.cumsum(1) - 1).clamp(min=0)  # of each pixel's low byte, behind the bit plane
    values = F.pad(depth_bytes[:, of_mask:], (0, 2)).to(torch.int32)  # so that none is beyond the end
    zigzag = values.gather(1, place) | values.gather(1, place + count) << 8
    codes = (((zigzag >> 1) ^ -(zigzag & 1)) * known).cumsum(1, dtype=torch.int64) & 0xFFFF
    return (codes.to(torch.int32) * known).reshape(-1, *size)


def _planes_of(depth_bytes: UInt8[Tensor, "t n"], spec: DepthSpec, size: tuple[int, int]) -> UInt8[Tensor, "t 2 h w"]:
    """Return low and high bytes, of nibbles joined as the table in `codec.depth` says."""
    height, width = size
    if spec.packing == "bytes":
        return depth_bytes.reshape(-1, 2, height, width)
    low, high = depth_bytes.reshape(-1, 2, 2, (height + 1) // 2, width).unbind(2)
    rows = (low & 15) | (high << 4), (low >> 4) | (high & 0xF0)
    return torch.stack(rows, dim=3).flatten(2, 3)[:, :, :height]


def _values_of(depth_bytes: UInt8[Tensor, "t n"], size: tuple[int, int]) -> Int32[Tensor, "t h w"]:
    """Return the 16-bit numbers that `interpolation.planes_of_interpolated` gives."""
    of_mask, of_blocks = interpolation.plane_sizes(*size)
    unknown, sky, blocks, rests = depth_bytes.tensor_split((of_mask, 2 * of_mask, 2 * of_mask + of_blocks), dim=1)
    values = torch.empty(len(depth_bytes), *size, dtype=torch.int32, device=depth_bytes.device)
    parts = list(interpolation.in_order(values))  # which share its memory
    shapes = [((part.shape[1] + 1) // 2, (part.shape[2] + 1) // 2) for part in parts]
    several = blocks.split([down * across for down, across in shapes], dim=1)
    pixels = [
        _pixels_of(one, shape)[:, : part.shape[1], : part.shape[2]].flatten(1)
        for one, shape, part in zip(several, shapes, parts, strict=True)
    ]
    whole = _with_rests(torch.cat(pixels, dim=1).to(torch.int32), rests)
    for part, found in zip(parts, whole.split([one.shape[1] for one in pixels], dim=1), strict=True):
        part.copy_(found.reshape(part.shape))
    values.masked_fill_(_mask_of(unknown, size), interpolation.UNKNOWN)
    return values.masked_fill_(_mask_of(sky, size), interpolation.SKY)


def _pixels_of(blocks: UInt8[Tensor, "t n"], shape: tuple[int, int]) -> UInt8[Tensor, "t h w"]:
    """Cut bytes into the two bits of each of their 2 x 2 pixels."""
    shifts = upload(torch.tensor([[0, 4], [2, 6]], dtype=torch.uint8), blocks.device)
    down, across = shape
    bits = (blocks.reshape(-1, down, 1, across, 1) >> shifts[:, None]) & 3
    return bits.reshape(-1, 2 * down, 2 * across)


def _with_rests(pixels: Int32[Tensor, "t m"], rests: UInt8[Tensor, "t k"]) -> Int32[Tensor, "t m"]:
    """Add FIRST, and their rests to the pixels whose bits are both set, in order."""
    if rests.shape[1] == 0:
        return pixels + FIRST
    low, high = rests.to(torch.int32).unflatten(1, (-1, 2)).unbind(2)
    full = pixels == IN_BLOCK
    place = full.cumsum(1, dtype=torch.int32) - 1
    rest = (low | high << 8).gather(1, place.clamp(0, low.shape[1] - 1).long())
    return torch.where(full, pixels + rest, pixels) + FIRST & 0xFFFF


def _mask_of(bits: UInt8[Tensor, "t m"], size: tuple[int, int]) -> Bool[Tensor, "t h w"]:
    """Undo the XOR with the pixel above, of bytes of four rows of two pixels."""
    height, width = size
    shifts = upload(torch.tensor([[7, 6], [5, 4], [3, 2], [1, 0]], dtype=torch.uint8), bits.device)
    edges = (bits.reshape(-1, (height + 3) // 4, 1, (width + 1) // 2, 1) >> shifts[:, None]) & 1
    edges = edges.flatten(3).flatten(1, 2)[:, :height, :width]
    return (edges.cumsum(1, dtype=torch.int32) & 1).bool()


@functools.lru_cache(maxsize=32)
def depth_table(spec: DepthSpec, device: torch.device) -> Float32[Tensor, "65536"]:
    """Return the metres of each code, on a device."""
    return torch.tensor(depth_codes.depth_table(spec), device=device)
