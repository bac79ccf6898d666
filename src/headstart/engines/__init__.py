"""Engines run a fixed network on pixels; one is used for a network only where it agrees with PyTorch in 32 bits."""
