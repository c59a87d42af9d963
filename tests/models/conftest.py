import re

import jax
import pytest

from resnet_jax.runtime import parallel, tpu_topology


@pytest.fixture
def compile_for_tpu():
    """A function that compiles `function(*arrays)` for one TPU v5e chip. This requires libtpu, but no TPU.

    The function returns the instructions of the program after all of XLA's passes, without their source lines.
    """
    pytest.importorskip("libtpu", reason="compiling for a TPU requires libtpu: pip install libtpu")

    def compile_function(function, *arrays):
        abstract = parallel.abstract(arrays, parallel.replicated(mesh))
        program = jax.jit(function).lower(*abstract).compile().as_text()
        return [re.sub(r", metadata={.*?}", "", line) for line in program.splitlines() if " = " in line]

    cached = jax.config.jax_enable_compilation_cache
    mesh = parallel.make_mesh(tpu_topology.describe("v5e:2x2")[:1])
    yield compile_function
    jax.config.update("jax_enable_compilation_cache", cached)
