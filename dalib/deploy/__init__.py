"""What is never needed to train: other runtimes, other formats, and what networks cost."""
