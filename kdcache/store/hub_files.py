"""HubFiles: a cache's folder in a repository of the Hugging Face Hub.

The revision is found once, on opening, and the commit that it is then is read: a branch that moves meanwhile changes
nothing. So what was listed stays true, and a folder is listed once, by HfFileSystem, 1,000 names a request. A read of a
block is one request for its bytes, with huggingface_hub's session and token; that of its file object would read ahead,
and try each request five times, which takes 23 s, before anybody hears of it.
"""

from typing import Any

from kdcache.disk import UnexpectedContent
from kdcache.hub import HubPlace, client
from kdcache.remote import RemoteError, retried
from kdcache.store.remote_files import Remote

__all__ = ["HubFiles"]


class HubFiles(Remote):
    """Raises RemoteError where there is no such repository or revision, or it cannot be asked."""

    def __init__(self, url: str) -> None:
        from huggingface_hub import HfFileSystem

        self._client = client()
        self._place = HubPlace.parse(url).pinned()
        filesystem: Any = HfFileSystem(skip_instance_cache=True)
        super().__init__(self._place.url, filesystem, self._place.folder)

    def read(self, name: str, most: int | None = None) -> bytes:
        if most is not None and (size := self.size(name)) > most:
            raise UnexpectedContent(f"got {size} bytes, expected at most {most}")
        return self._get(name, {})

    def read_part(self, name: str, start: int, size: int, whole: int) -> bytes:
        data = self._get(name, {"Range": f"bytes={start}-{start + size - 1}"}) if size else b""
        return data[start : start + size] if len(data) == whole > size else data

    def _get(self, name: str, headers: dict[str, str]) -> bytes:
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        place, endpoint = self._place, self._client.endpoint
        path = place.within(name)
        url = hf_hub_url(place.repo, path, repo_type=place.kind, revision=place.revision, endpoint=endpoint)

        def get() -> bytes:
            answer = get_session().get(
                url, headers=build_hf_headers() | headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            try:
                hf_raise_for_status(answer)
            except EntryNotFoundError:
                raise FileNotFoundError(f"{self.url}/{name}") from None
            data: bytes = answer.content
            return data

        return retried(get, f"cannot read {self.url}/{name}")

    def _forget(self) -> None:
        """A commit does not change."""

    def write(self, name: str, data: bytes, *, replace: bool = True) -> None:
        raise RemoteError("each file would be a commit of its own: write the cache elsewhere, and kdcache push it")

    def delete(self, name: str) -> None:
        self.write(name, b"")

    def sweep(self, sub: str) -> None:
        """Nobody writes in a commit."""
