"""Sky and ground, painted before anything else."""

import numpy as np

from dalib.data.diorama.labels import Label
from dalib.data.diorama.noise import Field, look_up, noise_tile
from dalib.data.diorama.scene import REACH, Scene, Side
from dalib.data.diorama.view import View, as_colour


def paint_sky(view: View) -> None:
    """Paint a gradient from zenith to skyline with clouds, down to the horizon."""
    rows = int(view.horizon) + 1
    draw, look = view.draw, view.look
    depth = (view.rows[:rows] / rows) ** 0.8
    zenith, skyline = (as_colour(look.tint(p, draw.getrandbits(16))) for p in (look.zenith, look.skyline))
    sky = zenith + (skyline - zenith) * depth
    scale = 160 / len(view.rows)
    across, down = draw.uniform(0, 256), draw.uniform(0, 256)
    clouds = look_up(noise_tile(1.8), view.rows[:rows] * scale * 1.8 + down, view.columns * scale * 0.7 + across)
    cover = ((clouds - draw.uniform(0.2, 1.6)) / look.cloud_edge).clip(0, 1)
    view.image[:, :rows] = sky + (as_colour(look.cloud) - sky) * cover


def paint_ground(view: View, scene: Scene) -> None:
    """Paint bands along the street in perspective: road, kerbs, sidewalks, verges and the ground behind the fronts."""
    first = int(view.horizon) + 1
    z = view.focal * view.height / (view.rows[first:] - view.horizon)
    x = (view.columns - view.vanishing) * (z / view.focal)
    band, labels, colours = _bands(view, scene, x)
    surface = colours.take(band, 1)
    _mark_road(view, scene, surface, x, z)
    surface *= _texture(view, band, x, z) * _cast_shadow(view, scene, x, z)
    view.image[:, first:] = view.veil(surface, z)
    view.label[first:] = labels.take(band)


def _bands(view: View, scene: Scene, x: Field) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    look = view.look
    left, right = scene.left, scene.right
    kerb = 0.3
    edges = [-left.front, -left.verge, -left.kerb - kerb, -left.kerb]
    edges += [right.kerb, right.kerb + kerb, right.verge, right.front]
    band = sum((x > edge).view(np.uint8) for edge in edges)
    half = [(Label.TERRAIN, look.terrain)] * 2 + [(Label.SIDEWALK, look.sidewalk), (Label.SIDEWALK, look.kerb)]
    order = [*half, (Label.ROAD, look.road), *reversed(half)]
    return (
        np.asarray(band),
        np.array([label for label, _ in order], np.uint8),
        np.array([look.tint((colour,), view.draw.getrandbits(16)) for _, colour in order], np.float32).T,
    )


def _mark_road(view: View, scene: Scene, surface: Field, x: Field, z: Field) -> None:
    least = np.maximum(0.08, 0.4 * z / view.focal)  # a line is never thinner than a pixel
    dashes = (z + view.draw.uniform(0, 6)) % 6 < 3
    borders = (*scene.lanes, scene.lanes[-1] + scene.lane_width)
    lines = np.zeros(x.shape, bool)
    for i, border in enumerate(borders):
        on = np.abs(x - border) < least
        lines |= on & dashes if 0 < i < len(scene.lanes) else on
    if scene.crossing is not None:
        across = (x > -scene.left.kerb) & (x < scene.right.kerb) & (x % 1.1 < 0.55)
        lines |= across & (z > scene.crossing) & (z < scene.crossing + 3.5)
    np.copyto(surface, as_colour(view.look.marking), where=lines)
    if scene.rails is not None:
        rails = np.abs(np.abs(x - scene.rails) - 0.72) < least
        surface[:, rails & (z < 60)] *= 0.55


def _texture(view: View, band: np.ndarray, x: Field, z: Field) -> Field:
    """Return the ground's brightness: grain and stains in perspective, and joints between slabs."""
    offset = view.draw.uniform(0, 256)
    grain = look_up(noise_tile(0.5), z * 22 + offset, x * 22 + offset)
    stains = look_up(noise_tile(1.5), z * 3 + offset, x * 9 + offset)
    rough = np.array([1.2, 1.2, 1.2, 1.2, 0.7, 1.2, 1.2, 1.2, 1.2], np.float32).take(band)
    texture = 1 + view.look.grain * rough * (0.45 * stains + 0.35 * grain / (1 + z / 12))
    slabs = ((band == 2) | (band == 6)) & (z < 18) & ((x % 1.3 < 0.08) | (z % 1.3 < 0.1))
    texture[slabs] *= 0.84
    return texture


def _cast_shadow(view: View, scene: Scene, x: Field, z: Field) -> Field:
    """Return the ground's brightness under shadows of one side's fronts, whose length is in proportion to height."""
    sign = view.draw.choice((-1, 1))
    side = scene.left if sign < 0 else scene.right
    slope = view.draw.uniform(-0.2, 0.5)
    reach = side.front - slope * _heights(side, z)
    inside = (sign * x - reach) / (view.look.shadow_edge + 1e-3)
    return 1 - view.look.shadow * (inside + 0.5).clip(0, 1)


def _heights(side: Side, z: Field) -> Field:
    starts = [segment.start for segment in side.segments]
    heights = np.array([segment.height for segment in side.segments], np.float32)
    return heights[np.searchsorted(starts, z.clip(0, REACH), side="right") - 1]
