"""Tell by name or first bytes what a file is that is called an archive."""

import re
import tarfile

from vdaprep.storage.documents import stand_in

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.gzip", ".taz")
"""What the names of archives that are read end in, in lower case."""
_PACKED = {
    "xz": rb"\xfd7zXZ\x00", "bzip2": rb"BZh[1-9]1AY&SY", "zstd": rb"\x28\xb5\x2f\xfd",
    "7-Zip": rb"7z\xbc\xaf\x27\x1c", "RAR": rb"Rar!\x1a\x07", "lz4": rb"\x04\x22\x4d\x18", "compress": rb"\x1f\x9d",
    "lzma": rb"\x5d\x00\x00[\x00-\xff]{2}\xff", "lzip": rb"LZIP\x01",
}  # fmt: skip
_BEGINNINGS = [(name, re.compile(start, re.DOTALL)) for name, start in _PACKED.items()]
_ENDINGS = {
    r"\.(tar\.xz|txz)": "xz", r"\.(tar\.bz2?|tbz2?|tb2)": "bzip2", r"\.(tar\.zst|tzst|tar\.zstd)": "zstd",
    r"\.7z": "7-Zip", r"\.rar": "RAR", r"\.tar\.lz4": "lz4", r"\.tar\.lz": "lzip", r"\.(tar\.lzma|tlz)": "lzma",
    r"\.(tar\.z|taz)": "compress",
}  # fmt: skip
_KINDS = [(re.compile(rf".+{ending}", re.IGNORECASE), kind) for ending, kind in _ENDINGS.items()]
_UNPACK = {
    "xz": "xz -d -k {}", "bzip2": "bzip2 -d -k {}", "zstd": "zstd -d {}", "lz4": "lz4 -d {}", "lzma": "xz -d -k {}",
    "lzip": "lzip -d -k {}", "compress": "uncompress -k {}", "7-Zip": "7z x {}", "RAR": "unrar x {}",
}  # fmt: skip
_SPANNED = re.compile(r"(?P<whole>.+)\.(?P<part>z\d\d+)", re.IGNORECASE)
_ARCHIVE = r"(?:zip|tar|tgz|txz|tbz2?|tzst|7z|rar|tar\.(?:gz|xz|bz2|zst))"
_NUMBER = r"(?:part[-_]?(?:\d+|[a-z]{2})|\d{2,}|[a-z]{2})(?:of\d+)?"
_PIECE = re.compile(rf"(?P<whole>.+\.(?:txz|tbz2?|tzst|7z|rar|tar\.(?:xz|bz2|zst)))\.{_NUMBER}", re.IGNORECASE)
_RAR_PIECE = re.compile(r".+(?:\.part\d+\.rar|\.r\d\d)", re.IGNORECASE)
_UNFINISHED = re.compile(
    rf".+\.{_ARCHIVE}(?:\.{_NUMBER})?(?:\.(?:part|partial|crdownload|download|opdownload|aria2|tmp|filepart|incomplete|!ut))"
    r"|.+\.(?:crdownload|opdownload|aria2)", re.IGNORECASE
)  # fmt: skip
_REPEATED = re.compile(rf".+\.{_ARCHIVE}(?:\.\d| ?\(\d+\)|[~?&].*|\.bak|\.old|\.orig)", re.IGNORECASE)
_HEADER = 512


def named_otherwise(name: str) -> str:
    """Return what is said of a file named as an archive that is not read, or as a piece."""
    if _UNFINISHED.fullmatch(name):
        return "is a download that was not finished; finish it, or get it again"
    if _RAR_PIECE.fullmatch(name):
        return f"is a piece of a split RAR archive, which is not read; unpack it: unrar x {_quoted(name)}"
    if match := _SPANNED.fullmatch(name):
        whole = match["whole"]
        command = f"zip -s 0 {_quoted(whole + '.zip')} --out {_quoted(whole + '-whole.zip')}"
        return f"is a piece of a split zip, which is not read; join the pieces: {command}"
    if kind := next((kind for ending, kind in _KINDS if ending.fullmatch(name)), ""):
        return f"is {packed(kind, name)}"
    if match := _PIECE.fullmatch(name):
        whole = _quoted(match["whole"])
        return f"is a piece of a split archive, which is not read; join the pieces: cat {whole}.* > {whole}"
    if _REPEATED.fullmatch(name):
        return "has an archive's name with more behind it and is not read; rename it to end in .zip, .tar or .tar.gz"
    return ""


def packed(kind: str, name: str) -> str:
    """Say that an archive cannot be read in place as it is packed, and how to unpack it."""
    return f"packed by {kind}, which cannot be read in place; unpack it: {_UNPACK[kind].format(_quoted(name))}"


_STAND_INS = {
    "nothing": "it is empty",
    "zeros": "holds nothing but zeros: it was not downloaded",
    "web page": "it is a web page, which a server sent instead of the file",
    "XML": "it is a message of a server, not the file",
    "git-lfs pointer": "it is a pointer of git-lfs, not the file: git lfs pull gets that",
}


def found_instead_of_part(start: bytes) -> str:
    """Say what came instead of a part of an archive; empty if it may be one."""
    kind = stand_in(start)
    return "" if kind == "zeros" else _STAND_INS.get(kind, "")


def found_instead(start: bytes, name: str) -> str:
    """Say what a file that is no archive begins as; empty if its first bytes say nothing."""
    if found := _STAND_INS.get(stand_in(start)):
        return found
    if start.lstrip().lower().startswith((b"<error", b"{")):
        return _STAND_INS["XML"]
    kind = next((kind for kind, pattern in _BEGINNINGS if pattern.match(start)), "")
    return f"it is {packed(kind, name)}" if kind else ""


def is_tar_header(block: bytes) -> bool:
    """Tell whether a block of 512 bytes is the header of a tar's member."""
    try:
        tarfile.TarInfo.frombuf(block[:_HEADER], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w./+-]+", name) else "'" + name.replace("'", "'\\''") + "'"
