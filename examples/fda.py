"""Fourier domain adaptation: source images take the low-frequency amplitudes of target images (Yang & Soatto 2020).

python examples/fda.py
python examples/fda.py --source DIR --target DIR --size 512 1024 --steps 40000
"""

from common import arguments, compare

from dalib import create_strategy

compare(
    {
        "source only": [create_strategy("supervised")],
        "FDA": [create_strategy("fda", beta=0.05), create_strategy("supervised")],
    },
    arguments(__doc__, steps=120),
)
