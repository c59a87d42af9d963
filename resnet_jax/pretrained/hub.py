"""Download weights from the Hugging Face hub."""

import hashlib
import os
import pathlib
import re

from resnet_jax.errors import UserError, first_line, needs_extra

PREFIX = "hf://"
FILES = ("model.safetensors", "pytorch_model.bin")  # The first one that a repository has is downloaded.


def download(address: str) -> pathlib.Path:
    """Download the weights of hf://owner/name, and return the path of the local copy.

    A file that is in huggingface_hub's cache ($HF_HOME) is not downloaded again, and needs no connection. $HF_ENDPOINT
    replaces https://huggingface.co. huggingface_hub compares the size of a download with the size that the hub states.
    Each time a file is used, we also compare its SHA-256 with the one that the hub states. The hub states it for files
    in LFS, as published weights are. So neither a truncated nor a damaged file is loaded.

    Raises:
      UserError: if the address is malformed, the repository has no weights, the download fails, or the file is damaged.
    """
    repository = address.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{address} is not the address of a repository. Write {PREFIX}owner/name.")
    with needs_extra(f"downloading {address}", "huggingface_hub", "hub"):
        from huggingface_hub import errors, hf_hub_download
    problem = f"it has no {' or '.join(FILES)}"
    for name in FILES:
        try:
            path = pathlib.Path(hf_hub_download(repository, name))
        except errors.LocalEntryNotFoundError:
            problem = "the hub cannot be reached"  # Still try the other file: it may be in the local cache.
        except errors.EntryNotFoundError:
            continue
        except Exception as error:  # Many types: errors of the repository, the connection and the disk.
            problem = first_line(error).rstrip(".")
            break
        else:
            _check_digest(path, address)
            return path
    raise UserError(
        f"cannot download {address} ({problem}). Check the name and the internet connection, "
        "or give the path of a local file."
    )


def _check_digest(path: pathlib.Path, address: str) -> None:
    """Check the SHA-256 of a file in the cache of huggingface_hub, if the hub has stated it.

    In the cache, `path` is a link to a file that is named after the ETag, which is the SHA-256 of a file in LFS. Where
    links are not supported, the ETag is unknown.

    Raises:
      UserError: if the file has another SHA-256.
    """
    if not path.is_symlink():
        return
    blob = path.parent / os.readlink(path)
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != blob.name:
        raise UserError(
            f"the local copy of {address} is damaged: its SHA-256 is not the one that the hub states. "
            f"Delete {blob.resolve()}, and run the same command again to download the file."
        )
