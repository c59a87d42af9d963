"""Hide TensorFlow and TensorBoard from a program. Python runs a module of this name when it starts."""

from importlib.machinery import PathFinder

original_find_spec = PathFinder.find_spec


def find_spec_without_tensorflow(name, path=None, target=None):
    return None if name.split(".")[0] in ("tensorflow", "tensorboard") else original_find_spec(name, path, target)


PathFinder.find_spec = find_spec_without_tensorflow
