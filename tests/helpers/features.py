"""Features without a network."""

import numpy as np


class FeatureBlocks:
    """Features in memory, (V, N, F)."""

    def __init__(self, rows):
        self.rows = rows.astype(np.float32)
        self.num_views, self.num_images, self.width = rows.shape
        self.groups = [str(i) for i in range(self.num_images)]

    def view(self, view, images):
        return self.rows[view, images]
