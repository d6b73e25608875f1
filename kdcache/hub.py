"""The Hugging Face Hub: places on it, its client, and what it refuses in one line.

    hf://datasets/OWNER/NAME[@REVISION][/PATH]      hf://OWNER/NAME is a model's repository, hf://spaces/… a space's

A revision is a branch, a tag, a commit, or refs/pr/3; one with a slash in its name is written with %2F. A branch moves;
`HubPlace.pinned` finds once which commit it is. The token is that of huggingface_hub: HF_TOKEN, or `hf auth login`.
"""

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

from kdcache.errors import ConfigError
from kdcache.remote import RemoteError, retried

__all__ = ["HubPlace", "client", "is_hub"]

PLACE = re.compile(
    r"hf://(?:(?P<kind>datasets|spaces|models)/)?(?P<repo>(?!(?:datasets|spaces|models|buckets)/)[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@]+))?(?:/(?P<path>.*))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub(url: str) -> bool:
    """Whether it is in a repository of the Hub; its buckets are stores like others."""
    return url.startswith("hf://") and not url.startswith("hf://buckets/")


@dataclass(frozen=True)
class HubPlace:
    """A folder in a repository.

    Attributes:
        kind: "dataset", "space" or "model".
        repo: "OWNER/NAME".
        revision: As the URL says it; None stands for the branch main.
        path: Of the folder in the repository; empty for all of it.
    """

    kind: str
    repo: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> "HubPlace":
        """Raises ConfigError for a URL that names no repository."""
        found = PLACE.fullmatch(url.rstrip("/"))
        if found is None:
            raise ConfigError(f"got {url}, expected hf://datasets/OWNER/NAME, with @REVISION and /PATH if you like")
        kind = (found["kind"] or "models").removesuffix("s")
        revision = unquote(found["revision"]) if found["revision"] else None
        return cls(kind, found["repo"], revision, (found["path"] or "").strip("/"))

    @property
    def folder(self) -> str:
        """What HfFileSystem calls it."""
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        at = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{prefix}{self.repo}{at}/{self.path}".rstrip("/")

    @property
    def url(self) -> str:
        return f"hf://{self.folder}"

    @property
    def is_pinned(self) -> bool:
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def within(self, name: str) -> str:
        """The path in the repository of a file in this folder."""
        return f"{self.path}/{name}".lstrip("/")

    def pinned(self) -> "HubPlace":
        """The same folder in the commit that the revision is now; one request, none where it is one already.

        Raises:
            RemoteError: There is no such repository or revision, or it cannot be asked.
        """
        return self if self.is_pinned else replace(self, revision=self.info().sha)

    def info(self) -> Any:
        """What the Hub says of the repository at this revision. Raises RemoteError as `pinned` does."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api = client()

        def ask() -> Any:
            try:
                return api.repo_info(self.repo, revision=self.revision, repo_type=self.kind)
            except RevisionNotFoundError:
                words = f"the {self.kind} {self.repo} has no revision {self.revision}, expected one that it has"
                raise RemoteError(words, missing=True) from None
            except RepositoryNotFoundError as error:
                if error.response.status_code == 403:
                    raise RemoteError(
                        f"access to the {self.kind} {self.repo} is to be asked for on its page (403), expected it for "
                        "the account of your token"
                    ) from None
                raise RemoteError(
                    f"there is no {self.kind} {self.repo} that {_who()} may see ({error.response.status_code}): mend "
                    "its name, or set HF_TOKEN to a token of who may see it",
                    missing=True,
                ) from None

        return retried(ask, f"cannot open {self.url}")


def client() -> Any:
    """huggingface_hub's HfApi, for one place of the Hub or a stand-in (HF_ENDPOINT).

    Raises:
        RemoteError: HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import HfApi, constants

    from kdcache import __version__

    if constants.HF_HUB_OFFLINE:
        raise RemoteError(
            "HF_HUB_OFFLINE is set, and this needs the network: unset it, or use a folder that kdcache fetch wrote "
            "where there is one"
        )
    return HfApi(library_name="kdcache", library_version=__version__)


def _who() -> str:
    from huggingface_hub import get_token

    return "the account of your token" if get_token() else "somebody without a token"
