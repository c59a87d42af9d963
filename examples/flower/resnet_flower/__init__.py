"""Federated training of a ResNet on Flower; see README.md."""
