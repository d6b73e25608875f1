"""push to a repository of the Hub: few large commits through huggingface_hub, cache.json in the last one.

Files are uploaded in groups as they are read, each compared with its digest first, and committed some hundred at a
time; what was uploaded and not committed before a kill is not sent again, because the Hub knows it by its digest.
`HfApi.upload_large_folder` would do it without saying when cache.json goes, and keeps notes in the cache's folder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

from kdcache.disk import fault
from kdcache.errors import CacheError, ConfigError, UnreadableError
from kdcache.hub import HubPlace, client
from kdcache.owned.folder import OWNER
from kdcache.remote import RemoteError, retried
from kdcache.share.card import CARD, Licences, card
from kdcache.share.claim import Found, check_other
from kdcache.share.contents import CACHE_JSON, Pinned, first, last, read_checked, units
from kdcache.share.copying import Moved
from kdcache.share.hub_tree import Entry, check_limits
from kdcache.store.files import Root, is_name
from kdcache.store.finished import CopyMark
from kdcache.store.manifest import Manifest, canonical
from kdcache.store.shard import repair_command

__all__ = ["push_to_hub"]

T = TypeVar("T")

GROUP_BYTES, GROUP_FILES = 64 << 20, 64
"""How much is uploaded at once, and so in memory."""
COMMIT_FILES = 256
OF_A_CACHE = ("shards/", "tokenizer/", "basis-", "header.json", "shards.arrow", "skipped.jsonl", CACHE_JSON)


def push_to_hub(
    source: Root, manifest: Manifest, place: HubPlace, licences: Licences, *, private: bool, force: bool
) -> Moved:
    """Copy a finished cache to a repository of data sets, which is made where there is none; what was sent.

    Args:
        source: The cache, of which every file has its size.
        manifest: What its cache.json says.
        place: Where to.
        licences: For the card.
        private: Whether a new repository is a private one.
        force: Replace another cache that is there.

    Raises:
        ConfigError: The place is no branch of a repository of data sets, or private and it is public.
        CacheError: Another cache is there, a file is damaged, or the Hub refuses or does not answer.
    """
    _check_place(place)
    repo = _Repository(place)
    if private and repo.exists and not repo.private:
        raise ConfigError(f"got --private, but {place.url} is a public repository: make it private on the Hub first")
    check_limits(manifest, place.path, repo.tree)
    digest = manifest.digest()
    found = Found.at(Root(replace(place, revision=repo.head).url)) if repo.head else Found(None, False, None)
    replaces = check_other(found, digest, place.url, force=force)
    with _quiet(), Moved(manifest, "push") as moved:
        push = _Push(source, manifest, repo, moved)
        about = card(manifest, licences, place.url, place.path)
        if found.finished == digest and push.is_there(about):
            return moved
        repo.make(private=private)
        replaced = replaces or (found.mark is not None and found.mark.of == digest and found.mark.replaces)
        push.begin(CopyMark(digest, replaced), anew=found.finished != digest, replaces=replaces)
        for file in chain.from_iterable(units(manifest)):
            push.file(file)
        push.end(about, replaced)
    return moved


def _check_place(place: HubPlace) -> None:
    if place.kind != "dataset":
        raise ConfigError(f"got {place.url}, expected hf://datasets/OWNER/NAME: a cache is a data set")
    if place.is_pinned:
        raise ConfigError(f"got {place.url}, expected a branch: nothing can be added to a commit")
    if place.path and not is_name(place.path):
        raise ConfigError(f"got {place.url}, expected a path of letters, digits, _, ., + and - in the repository")


class _Repository:
    """A branch of a repository of data sets. exists, private: it. head: its commit. tree: path -> Entry."""

    def __init__(self, place: HubPlace) -> None:
        self.place, self.branch = place, place.revision or "main"
        try:
            self.api = client()
        except RemoteError as error:
            raise UnreadableError(f"cannot open {place.url}: {error}") from None
        self.exists = self.private = self.has_branch = False
        self.head: str | None = None
        self.tree: dict[str, Entry] = {}
        self._of_repo = {"repo_id": place.repo, "repo_type": "dataset"}
        main = self._info(replace(place, revision=None))
        if main is not None:
            branch = self._info(place) if place.revision else main
            self.exists, self.private, self.has_branch = True, bool(main.private), branch is not None
            self.head = (branch or main).sha
            self.look()

    def _info(self, place: HubPlace) -> Any:
        try:
            return place.info()
        except RemoteError as error:
            if error.missing:
                return None
            raise UnreadableError(f"cannot open {self.place.url}: {error}") from None

    def look(self) -> None:
        """Read anew what is there."""
        at = self._of_repo | {"revision": self.head}
        found = self.ask("list", lambda: [*self.api.list_repo_tree(**at, recursive=True)])
        self.tree = {one.path: Entry.of(one) for one in found if hasattr(one, "blob_id")}

    def make(self, *, private: bool) -> None:
        """The repository and the branch, where they are not there."""
        if not self.exists:
            made = {"private": True} if private else {}
            self.ask("make", lambda: self.api.create_repo(**self._of_repo, **made, exist_ok=True))
        if self.branch != "main" and not self.has_branch:
            self.ask("make", lambda: self.api.create_branch(**self._of_repo, branch=self.branch, exist_ok=True))
        if not (self.exists and self.has_branch):
            self.head = self.ask("open", lambda: self.api.repo_info(**self._of_repo, revision=self.branch)).sha
            self.exists = self.has_branch = True
            self.look()

    def upload(self, additions: list[Any]) -> None:
        """Bring the bytes of large files there; a commit names them."""
        of_branch = self._of_repo | {"revision": self.branch}
        self.ask("write", lambda: self.api.preupload_lfs_files(**of_branch, additions=additions))

    def commit(self, operations: list[Any], words: str, *, after_head: bool) -> None:
        """after_head: refuse where somebody else has committed since `head`."""
        parent = {"parent_commit": self.head} if after_head else {}
        of_branch = self._of_repo | {"revision": self.branch, "commit_message": words}
        made = self.ask("write", lambda: self.api.create_commit(**of_branch, **parent, operations=operations))
        self.head = made.oid

    def ask(self, verb: str, do: Callable[[], T]) -> T:
        """What `do` gives, which asks the Hub. Raises CacheError in one line."""

        def attempt() -> T:
            try:
                return do()
            except RuntimeError as error:  # of one of several uploads
                if isinstance(error.__cause__, Exception):
                    raise error.__cause__ from None
                raise

        what = f"cannot {verb} {self.place.url}"
        try:
            return retried(attempt, what)
        except OSError as error:
            if getattr(getattr(error.__cause__, "response", None), "status_code", None) == 412:
                raise CacheError(
                    f"{what}: somebody else has committed there meanwhile, expected nobody to: run the same command "
                    "again when they are done"
                ) from None
            raise CacheError(f"{what}: {fault(error)}; what was committed stays, and a push goes on there") from None


class _Push:
    """One push: what is uploaded, and what waits to be committed."""

    def __init__(self, source: Root, manifest: Manifest, repo: _Repository, moved: Moved) -> None:
        self.source, self.manifest, self.repo, self.moved = source, manifest, repo, moved
        self._group: list[Any] = []
        self._waiting: list[Any] = []
        self._words = f"kdcache {manifest.digest()[:12]}"

    def has(self, file: Pinned) -> bool:
        entry = self.repo.tree.get(self.repo.place.within(file.name))
        if entry is None:
            return False
        same = entry.may_be(file)
        return entry.is_of(self._read(file)) if same is None else same

    def is_there(self, about: bytes) -> bool:
        """Whether nothing at all is to be sent."""
        readme = self.repo.tree.get(self.repo.place.within(CARD))
        files = chain(first(self.manifest), chain.from_iterable(units(self.manifest)), last(self.manifest))
        if readme is None or not readme.is_of(about) or not all(self.has(file) for file in files):
            return False
        self.moved.kept(self.moved.progress.total)
        return True

    def begin(self, mark: CopyMark, *, anew: bool, replaces: bool) -> None:
        """One commit of the mark and the header, that nobody else has made one before: the place is ours then."""
        from huggingface_hub import CommitOperationDelete

        place, operations = self.repo.place, list[Any]()
        if replaces and place.within(CACHE_JSON) in self.repo.tree:
            operations.append(CommitOperationDelete(place.within(CACHE_JSON)))
        if anew:
            operations.append(self._addition(OWNER, mark.to_json()))
        size = files = 0
        for file in first(self.manifest):
            if self.has(file):
                self.moved.kept()
            else:
                data = self._read(file)
                operations.append(self._addition(file.name, data))
                size, files = size + len(data), files + 1
        if operations:
            self.repo.commit(operations, f"{self._words}: header", after_head=True)
            self.moved.sent(size, files)

    def file(self, file: Pinned) -> None:
        """Send it, unless it is there."""
        if self.has(file):
            self.moved.kept()
            return
        self._group.append(self._addition(file.name, self._read(file)))
        if sum(one.upload_info.size for one in self._group) >= GROUP_BYTES or len(self._group) >= GROUP_FILES:
            self._upload()

    def end(self, about: bytes, replaced: bool) -> None:
        """Commit what waits, look whether everything is there, and name it a cache."""
        from huggingface_hub import CommitOperationDelete

        self._upload()
        self._commit()
        self.repo.look()
        place, names = self.repo.place, {CACHE_JSON}
        for file in chain(first(self.manifest), chain.from_iterable(units(self.manifest))):
            names.add(file.name)
            entry = self.repo.tree.get(place.within(file.name))
            if entry is None or entry.may_be(file) is False:
                raise CacheError(
                    f"{place.url} has not kept {file.name}: is it in the repository's .gitignore? Mend that, and push "
                    "again"
                )
        contents = {CARD: about, CACHE_JSON: canonical(self.manifest)}
        contents |= {file.name: self._read(file) for file in last(self.manifest)}
        names |= {*contents}
        operations = [self._addition(name, data) for name, data in contents.items()]
        if replaced:
            inside = [path for path in self.repo.tree if path.startswith(place.within(""))]
            others = {path for path in inside if path[len(place.within("")) :].startswith(OF_A_CACHE)}
            operations += [CommitOperationDelete(path) for path in sorted(others - {*map(place.within, names)})]
        self.repo.commit(operations, f"{self._words}: the cache is whole", after_head=True)
        self.moved.sent(sum(map(len, contents.values())), len(contents) - 1)

    def _upload(self) -> None:
        if not self._group:
            return
        sizes = sum(one.upload_info.size for one in self._group)
        self.repo.upload(self._group)
        self._waiting += self._group
        self.moved.sent(sizes, len(self._group))
        self._group = []
        if len(self._waiting) >= COMMIT_FILES:
            self._commit()

    def _commit(self) -> None:
        if self._waiting:
            self.repo.commit(self._waiting, f"{self._words}: {len(self._waiting)} files", after_head=False)
            self._waiting = []

    def _read(self, file: Pinned) -> bytes:
        return read_checked(self.source, file, repair_command(self.source))

    def _addition(self, name: str, data: bytes) -> Any:
        from huggingface_hub import CommitOperationAdd

        return CommitOperationAdd(self.repo.place.within(name), data)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of huggingface_hub: there is one of ours."""
    from huggingface_hub import utils

    bars: Any = utils
    if bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()
