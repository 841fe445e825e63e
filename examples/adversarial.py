"""Adversarial adaptation in the output space, with softmax (AdaptSegNet) and with self-information (AdvEnt).

python examples/adversarial.py
python examples/adversarial.py --source DIR --target DIR --size 512 1024 --steps 40000
"""

from common import arguments, compare

from dalib import create_strategy

WEIGHT = 0.001  # lambda of both papers

compare(
    {
        "source only": [create_strategy("supervised")],
        "AdaptSegNet": [create_strategy("supervised"), create_strategy("adversarial", weight=WEIGHT)],
        "AdvEnt": [
            create_strategy("supervised"),
            create_strategy("adversarial", weight=WEIGHT, input="self_information"),
        ],
    },
    arguments(__doc__, steps=45),
)
