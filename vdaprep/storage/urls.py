"""The text of URLs: telling them from paths, splitting lists of them, hiding what is secret in them."""

import re
from urllib.parse import urlsplit, urlunsplit

_SEPARATOR = re.compile(r",\s*(?=[a-z0-9]+://)")  # only before a URL: a folder's name may have commas
_URL = re.compile(r"^(?P<scheme>[^/?#]*://)(?:[^/?#]*@)?(?P<place>[^?#]*)", re.DOTALL)
_WITHIN = re.compile(r"([a-z][a-z0-9+.:-]*://)(?:[^/?#\s]*@)?([^?#\s]*)(?:[?#]\S*)?")


def is_url(text: str) -> bool:
    """Tell URLs from paths."""
    return "://" in text


def split_urls(text: str) -> list[str]:
    """Split URLs separated by commas; a path is returned whole, commas included."""
    return [url.strip() for url in _SEPARATOR.split(text)] if is_url(text) else [text]


def redact(text: str) -> str:
    """Return a path, or URLs separated by commas, without users, passwords, queries and fragments."""
    if not is_url(text):
        return text
    matches = [(_URL.match(url), url) for url in split_urls(text)]
    return ",".join(match["scheme"] + match["place"] if match else url for match, url in matches)


def redact_within(text: str) -> str:
    """Return a sentence without the users, passwords, queries and fragments of the URLs in it."""
    return _WITHIN.sub(r"\1\2", text)


def join_url(url: str, name: str) -> str:
    """Return the URL of a file or folder in a folder; what follows the path, a token for one, travels along."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
