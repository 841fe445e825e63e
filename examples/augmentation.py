"""Augmentation of the source alone: colour jitter, blur and both, with the values of the reference study.

python examples/augmentation.py
python examples/augmentation.py --source DIR --target DIR --size 512 1024 --steps 40000
"""

from common import arguments, compare

from dalib import create_strategy

JITTER = {"color_jitter": [0.5, 0.5, 0.5, 0.05]}
BLUR = {"blur": {"kernel": 3, "sigma": [0.2, 0.8]}}

compare(
    {
        "source only": [create_strategy("supervised")],
        "jitter": [create_strategy("augment", **JITTER), create_strategy("supervised")],
        "blur": [create_strategy("augment", **BLUR), create_strategy("supervised")],
        "jitter and blur": [create_strategy("augment", **JITTER, **BLUR), create_strategy("supervised")],
    },
    arguments(__doc__, steps=60),
)
