"""A stack of augmentation, FDA, supervised loss and DACS; strategies are called in list order.

python examples/stack.py
python examples/stack.py --source DIR --target DIR --size 512 1024 --steps 40000
"""

from common import arguments, domains, make_engine

from dalib import create_strategy


def main() -> None:
    options = arguments(__doc__, steps=90)
    source, target, held_out = domains(options)
    strategies = [
        create_strategy(
            "augment", flip=0.5, color_jitter=[0.5, 0.5, 0.5, 0.05], blur={"kernel": 3, "sigma": [0.2, 0.8]}
        ),
        create_strategy("fda", beta=0.05),
        create_strategy("supervised"),
        create_strategy("dacs", threshold=0.968),
    ]
    engine = make_engine(strategies, options)
    print(f"untrained  mIoU {100 * engine.evaluate(held_out, limit=options.images).miou:5.1f} %", flush=True)
    engine.fit(source, target, steps=options.steps, batch_size=options.batch_size)
    print(f"student    mIoU {100 * engine.evaluate(held_out, limit=options.images).miou:5.1f} %")
    teacher = engine.evaluate(held_out, teacher=True, limit=options.images)
    print(f"teacher    mIoU {100 * teacher.miou:5.1f} %")
    for name, iou in zip(teacher.classes, teacher.iou.tolist(), strict=True):
        print(f"  {name:14} {100 * iou:5.1f} %")


main()
