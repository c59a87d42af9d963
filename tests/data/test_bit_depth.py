import io

import cv2
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import bit_depth
from resnet_jax.data.bit_depth import SAMPLE
from resnet_jax.data.subset import Subset


class Files:
    """PNG files with these largest values, of 16 or of 8 bits."""

    classes = ("cat", "dog")

    def __init__(self, largest, dtype=np.uint16):
        self.largest, self.dtype, self.read = largest, dtype, 0

    def __len__(self):
        return len(self.largest)

    def __getitem__(self, index):
        self.read += 1
        levels = np.zeros((4, 4), self.dtype)
        levels[1, 2] = self.largest[index]
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "PNG")
        return file.getvalue(), 0


def measure(files):
    return bit_depth.measure(Subset.from_split({"train": files}, "train"))


@pytest.mark.parametrize(("largest", "bits"), [(1, 8), (255, 8), (256, 9), (1023, 10), (4095, 12), (65535, 16)])
def test_bits_hold_the_largest_value(largest, bits):
    assert measure(Files([0, largest, largest // 2])) == bits


def test_largest_value_of_a_single_image_counts():
    assert measure(Files([200] * 400 + [4000] + [200] * 99)) == 12


def test_few_images_are_read_unless_they_have_16_bits():
    files = Files([200] * 3000, np.uint8)
    assert measure(files) == 16
    assert files.read < 60
    files = Files([4000] * 3000)
    assert measure(files) == 12
    assert files.read < SAMPLE + 60


def test_alpha_channel_does_not_count():
    class Transparent(Files):
        def __getitem__(self, index):
            pixels = np.full((4, 4, 4), 65535, np.uint16)
            pixels[..., :3] = self.largest[index]
            return cv2.imencode(".png", pixels)[1].tobytes(), 0

    assert measure(Transparent([100, 4095])) == 12
