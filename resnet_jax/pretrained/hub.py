"""Weights from the Hugging Face hub."""

import pathlib
import re

from resnet_jax.errors import UserError, first_line

PREFIX = "hf://"
FILES = ("model.safetensors", "pytorch_model.bin")  # The first of them that a repository has.


def download(address: str) -> pathlib.Path:
    """The local copy of the weights of hf://owner/name.

    Raises:
      UserError: if there are none, or if they cannot be downloaded, here or now.
    """
    repository = address.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{address} names no repository: write {PREFIX}owner/name")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise UserError(
            f"downloading {address} takes the package huggingface_hub: pip install huggingface_hub, "
            "or download the file otherwise and give its path"
        ) from None
    problem = f"it has no {' or '.join(FILES)}"
    for name in FILES:
        try:
            return pathlib.Path(hf_hub_download(repository, name))
        except errors.LocalEntryNotFoundError:
            problem = "huggingface.co cannot be reached"  # But the other file may have been downloaded before.
        except errors.EntryNotFoundError:
            continue
        except Exception as error:  # Of the repository, of the network, of the disk.
            problem = first_line(error)
            break
    raise UserError(
        f"cannot download {address} ({problem}): check the name and the network, "
        "or give the path of a file that you have"
    )
