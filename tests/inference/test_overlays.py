"""Drawings of attribution maps."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from resnet_jax import image_grid
from resnet_jax.attribution.methods import SinglePosition
from resnet_jax.inference.explain import Explanation
from resnet_jax.inference.overlays import OPAQUE_FROM, color_scale, figure, grad_cam_overlays, overlay


def checkerboard(height, width):
    """Black and white pixels: uint8 [height, width, 1]."""
    rows, columns = np.indices((height, width))
    return ((rows + columns) % 2 * 255).astype(np.uint8)[..., None]


def explanation(pixels, maps, **fields):
    return Explanation(
        **{
            "name": "test[0]",
            "pixels": pixels,
            "label": "cat",
            "prediction": "dog",
            "probability": 0.9,
            "target": "dog",
            "target_probability": 0.9,
            "maps": maps,
            "completeness_gaps": {},
            **fields,
        }
    )


def test_values_can_be_read_off_the_scale_on_black_and_on_white_pixels():
    """The nearest color of the scale is that of a nearby value."""
    levels = np.linspace(0, 1, 101, dtype=np.float32)
    shown = overlay(checkerboard(2, 101), np.tile(levels, (2, 1))).astype(int)
    scale = color_scale().colors[::-1, 0].astype(int)  # from zero to the largest value
    distances = ((shown[:, :, None] - scale) ** 2).sum(axis=-1)
    errors = np.abs(distances.argmin(axis=-1) / (len(scale) - 1) - levels)
    assert errors[:, levels >= OPAQUE_FROM].max() < 0.1
    assert errors.max() < 0.25


def test_overlay_is_brightest_where_the_map_is_highest():
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 5.0
    shown = overlay(np.full((4, 4, 1), 100, np.uint8), values).astype(int).sum(axis=-1)
    assert np.unravel_index(shown.argmax(), shown.shape) == (1, 2)


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_overlay_without_positive_values_is_the_image_in_gray(level):
    shown = overlay(checkerboard(4, 4), np.full((4, 4), level, np.float32)).astype(int)
    assert (shown == shown[..., :1]).all()
    black, white = np.unique(shown)
    assert white - black > 100


def test_negative_values_look_like_zero():
    values = np.array([[1.0, 0.0, -3.0]], np.float32)
    _, zero, negative = overlay(np.full((1, 3, 3), 200, np.uint8), values)[0]
    assert (zero == negative).all()


def test_figure_has_one_cell_per_map_and_one_for_the_image():
    maps = {"grad_cam": np.ones((8, 8), np.float32), "rise": -np.ones((8, 8), np.float32)}
    drawn = figure(explanation(checkerboard(8, 8), maps))
    pitch = image_grid.STRIP_CELL + image_grid.GAP
    assert 3 * pitch < drawn.shape[1] < 4 * pitch
    middle = [drawn[100, image_grid.GAP + cell * pitch + 100].astype(int) for cell in range(3)]
    is_gray = [pixel.max() == pixel.min() for pixel in middle]
    assert is_gray == [True, False, True]


def test_figure_averages_the_values_of_large_maps():
    """Of a large map, every second value of which is zero, no single value is visible."""
    side = 2 * image_grid.STRIP_CELL
    pixels = np.full((side, side, 3), 128, np.uint8)
    drawn = figure(explanation(pixels, {"rise": checkerboard(side, side)[..., 0].astype(np.float32)}))
    left = image_grid.STRIP_CELL + 2 * image_grid.GAP
    cell = drawn[image_grid.GAP :, left:][: image_grid.STRIP_CELL, : image_grid.STRIP_CELL].astype(int)
    assert np.abs(cell - color_scale().colors[0, 0]).max() <= 1


def test_figure_of_a_large_image_takes_little_memory():
    pixels = np.zeros((1500, 1000, 3), np.uint8)
    explained = explanation(pixels, {"grad_cam": np.ones((1500, 1000), np.float32)})
    tracemalloc.start()
    try:
        figure(explained)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < pixels.nbytes


def test_figure_keeps_the_probability_of_a_long_class_name():
    name = "a class with a very long name that takes more than a single cell of the figure"
    maps = {"grad_cam": np.ones((8, 8), np.float32)}
    original = explanation(checkerboard(8, 8), maps, prediction=name, target=name)
    for changed in ({"probability": 0.4}, {"target_probability": 0.4}):
        assert (figure(dataclasses.replace(original, **changed)) != figure(original)).any()


def test_grad_cam_overlays_have_the_size_of_the_images(trained, images):
    shown = grad_cam_overlays(trained, images[:5])
    assert [overlaid.shape for overlaid in shown] == [(8, 8, 3)] * 5


def test_model_whose_last_stage_is_a_single_position_has_no_grad_cam_overlays(images):
    class Model:
        def on_local_devices(self):
            return self

        def attributions(self, examples, methods):
            raise SinglePosition("the output is a single position")

    assert grad_cam_overlays(Model(), images[:5]) is None
