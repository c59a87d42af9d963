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
    """As a user starts: JAX keeps nothing."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_apart_by_processors_and_are_not_kept_for_ever(tmp_path, monkeypatch):
    compilation_cache.use()
    here = jax.config.jax_compilation_cache_dir
    assert here.startswith(f"{tmp_path}/resnet_jax/compiled/")
    assert jax.config.jax_compilation_cache_max_size == 2 * 2**30
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation_cache.platform, "machine", lambda: "another")
    compilation_cache.use()
    assert jax.config.jax_compilation_cache_dir not in (None, here)


def test_what_the_user_has_chosen_stays():
    jax.config.update("jax_compilation_cache_dir", "/his/own")
    compilation_cache.use()
    assert jax.config.jax_compilation_cache_dir == "/his/own"


def test_without_a_cache_directory_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation_cache.use()
    assert jax.config.jax_compilation_cache_dir is None
