"""Attribution: how important each pixel of an image is for a class, according to a trained model."""
