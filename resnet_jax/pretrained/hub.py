"""Download weights from the Hugging Face hub."""

import pathlib
import re

from resnet_jax.errors import UserError, first_line

PREFIX = "hf://"
FILES = ("model.safetensors", "pytorch_model.bin")  # The first one that a repository has is downloaded.


def download(address: str) -> pathlib.Path:
    """Download the weights of hf://owner/name, and return the path of the local copy.

    Raises:
      UserError: if the address is malformed, the repository has no weights, or the download fails.
    """
    repository = address.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{address} is not the address of a repository. Write {PREFIX}owner/name.")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise UserError(
            f"downloading {address} needs the package huggingface_hub. Run: pip install huggingface_hub. "
            "Or download the file in another way and give its path."
        ) from None
    problem = f"it has no {' or '.join(FILES)}"
    for name in FILES:
        try:
            return pathlib.Path(hf_hub_download(repository, name))
        except errors.LocalEntryNotFoundError:
            problem = "huggingface.co cannot be reached"  # Still try the other file: it may be in the local cache.
        except errors.EntryNotFoundError:
            continue
        except Exception as error:  # Many types: errors of the repository, the connection and the disk.
            problem = first_line(error)
            break
    raise UserError(
        f"cannot download {address} ({problem}). Check the name and the internet connection, "
        "or give the path of a local file."
    )
