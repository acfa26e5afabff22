"""Weights on the Hugging Face Hub, through its own library.

The library reads ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE``, keeps the files in its own cache, and
resumes interrupted downloads. https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mmearth_data import InputError
from mmearth_model.training.layout import CONFIG_FILE, MODEL_FILE
from mmearth_model.weights.downloading import DownloadFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORM = "hf://OWNER/NAME[@REVISION][/SUBFOLDER]"
URL = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@]+))?(/(?P<folder>[^@]*))?")
SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN to a token with read access"


@dataclass(frozen=True, slots=True)
class HubFolder:
    """Folder in a repository of the Hub.

    Attributes
    ----------
    repository
        ``OWNER/NAME``.
    revision
        Branch, tag or commit; None is the default branch.
    folder
        Path in the repository, "" for its root.
    """

    repository: str
    revision: str | None
    folder: str

    @classmethod
    def parse(cls, url: str) -> HubFolder:
        """Read a URL; slashes in a revision are written ``%2F``.

        Raises
        ------
        InputError
            If it has a different form.

        Examples
        --------
        >>> HubFolder.parse("hf://me/atto@v1/last")
        HubFolder(repository='me/atto', revision='v1', folder='last')
        """
        found = URL.fullmatch(url)
        folder = (found["folder"] or "").strip("/") if found else ""
        if not found or ".." in folder.split("/"):
            raise InputError(f"{url}: expected a URL of the form {FORM}, got a different one; correct it.")
        return cls(found["repository"], unquote(found["revision"]) if found["revision"] else None, folder)


def fetch_from_hub(url: str, report: Callable[[int], None] | None = None) -> tuple[Path, str]:
    """Folder in the Hub's cache with the weights of a URL, downloaded if they are absent or outdated, and their commit.

    ``report`` is called with the number of bytes received so far.

    Raises
    ------
    InputError
        If the library is not installed, or there is no such repository, revision or folder with weights.
    DownloadFailed
        If the Hub cannot be reached and there is no complete earlier download, or it refuses.
    """
    wanted = HubFolder.parse(url)
    snapshot = Path(_download(url, wanted, report))
    folder = snapshot / wanted.folder
    missing = [name for name in (CONFIG_FILE, MODEL_FILE) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{url}: expected a folder with {CONFIG_FILE} and {MODEL_FILE}, got one without {' and '.join(missing)}; "
            f"check the repository, or add the subfolder: {FORM}."
        )
    return folder, snapshot.name


def _download(url: str, wanted: HubFolder, report: Callable[[int], None] | None) -> str:
    try:
        from huggingface_hub import errors, snapshot_download
    except ModuleNotFoundError:
        raise InputError(
            f"{url}: expected the library huggingface_hub, which is not installed; run: pip install 'mmearth[hub]'"
        ) from None
    prefix = f"{wanted.folder}/" if wanted.folder else ""
    try:
        with _quiet():
            found = snapshot_download(
                wanted.repository,
                revision=wanted.revision,
                allow_patterns=[prefix + name for name in (CONFIG_FILE, MODEL_FILE)],
                tqdm_class=None if report is None else _counter(report),
            )
        return str(found)
    except errors.HFValidationError:
        raise InputError(f"{url}: expected {FORM}, got a name that the Hub does not accept; correct it.") from None
    except errors.GatedRepoError:
        raise DownloadFailed(
            f"{url}: the repository requires you to accept its terms; accept them on its page, then {SIGN_IN}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{url}: expected a repository of the Hub that you can read, found none; check the name, or if it is private, {SIGN_IN}.") from None  # fmt: skip
    except errors.RevisionNotFoundError:
        raise InputError(f"{url}: expected a branch, tag or commit of the repository, found none of that name; correct it.") from None  # fmt: skip
    except errors.HfHubHTTPError as error:
        raise DownloadFailed(_refused(url, error.response.status_code)) from None
    except errors.LocalEntryNotFoundError:
        raise DownloadFailed(
            f"{url}: the Hub cannot be reached, and the cache has no complete copy; go online and run the same command "
            "again (unset HF_HUB_OFFLINE if it is set)."
        ) from None
    except (OSError, ValueError) as error:
        raise DownloadFailed(f"{url}: could not be downloaded ({_line(error)}); run the same command again.") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the library's log messages about its attempts; failures become errors."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _refused(url: str, status: int) -> str:
    remedy = f"if the repository is private, {SIGN_IN}" if status in (401, 403) else "try again later"
    return f"{url}: the Hub answered {status}; {remedy}."


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _counter(report: Callable[[int], None]) -> type[Any]:
    """Class of progress bars that show nothing and report the bytes received."""
    from tqdm.auto import tqdm

    class Counter(tqdm):  # type: ignore[misc]
        """Bar of one kind of bytes; the Hub's library uses several."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.counted = 0 if options.get("unit") == "B" else None
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self.counted is not None:
                self.counted += int(n or 0)
                report(self.counted)
            return None

    return Counter
