import jax
import pytest

from resnet_jax.runtime import compilation_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def unset(tmp_path, monkeypatch):
    """Start as for a user, with no compilation cache configured."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_cache_is_limited_and_separate_for_each_kind_of_processor(tmp_path, monkeypatch):
    compilation_cache.enable()
    directory = jax.config.jax_compilation_cache_dir
    assert directory.startswith(f"{tmp_path}/resnet_jax/compiled/")
    assert jax.config.jax_compilation_cache_max_size == 2 * 10**9
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation_cache.platform, "machine", lambda: "another")
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir not in (None, directory)


def test_directory_chosen_by_the_user_is_kept():
    jax.config.update("jax_compilation_cache_dir", "/chosen/by/user")
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == "/chosen/by/user"


def test_compilation_cache_is_disabled_without_a_user_cache(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None


def test_compilation_cache_is_disabled_in_a_directory_that_jax_takes_for_a_pattern(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home[1]"))
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
