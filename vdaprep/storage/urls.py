"""The text of URLs: telling them from paths, splitting lists, hiding secrets."""

import re
from urllib.parse import urlsplit, urlunsplit

from vdaprep.errors import UsageError

_BEGIN = re.compile(r"\s*[a-z0-9]+://")
_SEPARATOR = re.compile(r",\s*(?=[a-z0-9]+://)")  # only before a URL: a folder's name may have commas
_URL = re.compile(r"^(?P<scheme>[^/?#]*://)(?:[^/?#]*@)?(?P<place>[^?#]*)", re.DOTALL)
_WITHIN = re.compile(r"([a-z][a-z0-9+.:-]*://)(?:[^/?#\s]*@)?([^?#\s]*)(?:[?#]\S*)?")


def is_url(text: str) -> bool:
    """Tell URLs from paths."""
    return "://" in text


def begins_url(text: str) -> bool:
    """Tell whether a URL stands at the beginning, behind spaces."""
    return _BEGIN.match(text) is not None


def split_urls(text: str) -> list[str]:
    """Split URLs separated by commas; a path is returned whole, commas included.

    Raises UsageError for text that cannot be a URL, such as one with a port of six digits.
    """
    urls = _split(text)
    for url in filter(is_url, urls):
        try:
            urlsplit(url).port  # noqa: B018 - which is looked at only now
        except ValueError as error:
            raise UsageError(f"{redact(url)}: is no URL ({redact_within(str(error))}).") from error
    return urls


def _split(text: str) -> list[str]:
    return [url.strip() for url in _SEPARATOR.split(text)] if is_url(text) else [text]


def redact(text: str) -> str:
    """Return a path, or URLs with commas, without users, passwords, queries, fragments."""
    if not is_url(text):
        return text
    matches = [(_URL.match(url), url) for url in _split(text)]
    return ",".join(match["scheme"] + match["place"] if match else url for match, url in matches)


def redact_within(text: str) -> str:
    """Return a sentence without the users, passwords, queries and fragments of the URLs in it."""
    return _WITHIN.sub(r"\1\2", text)


def join_url(url: str, name: str) -> str:
    """Return the URL of a file or folder in a folder; a token behind the path stays."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
