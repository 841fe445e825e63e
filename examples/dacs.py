"""DACS: self-training on target images into which classes of source images are pasted (Tranheden et al. 2021).

    python examples/dacs.py
    python examples/dacs.py --source DIR --target DIR --size 512 1024 --steps 40000

Self-training helps once most pseudo-labels are right, for which the default run is too short.
"""

from common import arguments, compare

from dalib import create_strategy

compare(
    {
        "source only": [create_strategy("supervised")],
        "DACS": [create_strategy("supervised"), create_strategy("dacs", threshold=0.968)],
    },
    arguments(__doc__, steps=90),
)
