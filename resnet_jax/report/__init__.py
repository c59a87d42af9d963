"""All about trained networks, on one page."""
