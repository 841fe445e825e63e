"""dalib: unsupervised domain adaptation for semantic segmentation, as plugins that stack over swappable backbones."""
