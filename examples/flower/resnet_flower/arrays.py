"""The variables of a model as arrays by name, as Flower sends them."""

from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from flwr.app import Array, ArrayRecord


def to_record(variables: Mapping) -> ArrayRecord:
    """Return the variables with names such as "params/head/kernel"."""
    flat = flatten_dict(dict(variables), sep="/")
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in flat.items()})


def from_record(record: ArrayRecord) -> dict:
    """Return the variables, `{"params": ..., "batch_stats": ...}`, as NumPy arrays."""
    variables = unflatten_dict({name: array.numpy() for name, array in record.items()}, sep="/")
    return {"batch_stats": {}, **variables}
