"""model_folder: where the files of a model are that is named by its folder, or by its name on the Hugging Face hub.

A name is fetched once into the hub's own cache (HF_HOME), or found there without a network (HF_HUB_OFFLINE=1):
safetensors only, no pickle.
"""

from pathlib import Path

from kdcache.config.paths import check_local
from kdcache.errors import ConfigError, KdcacheError
from kdcache.models.strangers import check_model_files

__all__ = ["model_folder"]

PATTERNS = ("*.json", "*.model", "*.txt", "*.jinja")


def model_folder(
    path: str | Path,
    *,
    what: str,
    error: type[KdcacheError],
    revision: str | None = None,
    trust_remote_code: bool = False,
    weights: bool = True,
) -> Path:
    """A folder is given back as it is, once its files have been looked at (kdcache.models.strangers).

    Args:
        path: folder, or a name such as org/model.
        what: names it in messages, such as "teacher" or "student.path".
        error: what is raised where it is neither, or holds what is not to be loaded.
        revision: branch, tag or commit of a hub name.
        trust_remote_code: fetch the model's own Python files too.
        weights: whether they are fetched as well; its config and tokenizer may be enough.
    """
    try:
        check_local(str(path))
    except ConfigError as url:
        raise error(f"{what}: {url}", missing_path=True) from None
    folder = Path(path) if Path(path).is_dir() else _fetched(path, what, error, revision, trust_remote_code, weights)
    try:
        check_model_files(folder, weights=weights, trust_remote_code=trust_remote_code)
    except ValueError as fault:
        raise error(f"the {what} {path} does not load: {fault}") from None
    return folder


def _fetched(
    path: str | Path,
    what: str,
    error: type[KdcacheError],
    revision: str | None,
    trust_remote_code: bool,
    weights: bool,
) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*PATTERNS, *(["*.safetensors"] if weights else []), *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=patterns))
    except Exception as fault:
        raise error(
            f"got {what} {path}, expected a folder with config.json and model.safetensors, or the name of a model on "
            f"the hub: it is neither a folder nor a model that can be fetched{_why(fault, path, revision)}",
            missing_path=True,
        ) from None


def _why(fault: Exception, path: str | Path, revision: str | None) -> str:
    """What the hub's client found, and what helps where only the network is missing."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not isinstance(fault, LocalEntryNotFoundError | ConnectionError):
        return f" ({type(fault).__name__})"
    network = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    which = f"{path}" if revision is None else f"{path} --revision {revision}"
    return f" ({network}): run `hf download {which}` where there is a network, with this machine's HF_HOME"
