"""zstandard with a checksum and a size that is known before anything is allocated."""

import threading

import zstandard

from vdaprep.errors import ShardError

# After the prediction zstd's level 1 packs as small as level 3 (62 KiB a real frame of 540x360) and is quicker; level 6
# saves 6.5 % for four times the time, level 19 19 % for 140 times. `make bench` prints the table.
ZSTD_LEVEL = 1
_UNSAID = zstandard.CONTENTSIZE_ERROR  # as large as a size that is not in the frame, and the next one
_local = threading.local()
Data = bytes | memoryview


def compress(data: Data, *, level: int = ZSTD_LEVEL) -> bytes:
    """Compress, with a checksum and the size; a thread keeps one compressor a level."""
    compressors: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    compressor = compressors.get(level)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        compressors[level] = compressor
    return compressor.compress(data)


def decompress(data: Data, *, size: int | tuple[int, int], where: str) -> bytes:
    """Decompress to `size` bytes, or from one to another, compared before it is allocated."""
    least, most = (size, size) if isinstance(size, int) else size
    try:
        found = zstandard.get_frame_parameters(data).content_size
        if not least <= found <= most:
            said = "does not say how many bytes it holds" if found >= _UNSAID else f"holds {found} bytes when unpacked"
            expected = least if least == most else f"{least} to {most}"
            raise ShardError(f"{where}: {said}, expected {expected}; the shard is damaged.")
        decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
        if decompressor is None:
            decompressor = _local.decompressor = zstandard.ZstdDecompressor()
        return decompressor.decompress(data, max_output_size=most, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ShardError(f"{where}: not readable as zstd ({error}); the shard is damaged.") from error
