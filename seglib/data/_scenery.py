"""The drawings of the stuff: sky, mountains, grass, water and roads, in that order, each over the one before."""

from __future__ import annotations

import numpy as np

from seglib.data._canvas import Canvas
from seglib.data._colors import NIGHTFALL, OVERCAST, mix, planes, rgb, scaled, times
from seglib.data._landscape import Band, Crossing, Land, Receding
from seglib.data._noise import Floats, smooth_noise


def draw_sky(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """The gradient, stars at nightfall, the sun or moon with its glow, and clouds, down to just below the horizon."""
    light, short = land.light, canvas.short
    bottom = min(int(land.horizon * canvas.height) + 2, canvas.height)
    window = slice(0, bottom), slice(0, canvas.width)
    sky, y = canvas.image[:, :bottom], canvas.y[:bottom]  # (3, h, W), (h, 1)
    t = y * (1 / bottom)
    sky[:] = planes(light.top) + (planes(light.low) - planes(light.top)) * (t * t * (1.5 - 0.5 * t))
    if light is NIGHTFALL:
        sky += canvas.cover(window, 7 - canvas.grain[:bottom] * 9) * (0.6 - 0.5 * t)
    disc = mix((1.0, 1.0, 0.92), light.low, 0.3)
    x, top = (0.5 + 0.42 * land.sun) * canvas.width, land.horizon * canvas.height * light.height
    if light is not OVERCAST:
        u, v = (canvas.x - x) * (1 / short), (y - top) * (1 / short)
        canvas.paint(window, 0.008 / (u * u + (v * v + 0.014)), disc)  # the glow: 0.57 at its centre
        canvas.ellipse(x, top, 0.028 * short, 0.028 * short, light.disc)
    rows, columns = y[:, 0] * (11 / short), canvas.x[0] * (4.5 / short)
    cloud = smooth_noise(key, 11, rows, columns)  # (h, W)
    cloud += 0.5 * smooth_noise(key, 12, rows * 2.3, columns * 2.3)
    cloud = canvas.cover(window, 0.85 - (cloud + land.clouds) * 1.4)
    white = scaled(times(mix((1.0, 1.0, 1.0), light.low, 0.35), light.tint), 0.98)
    canvas.paint(window, cloud * (0.93 - 0.5 * t), white)
    canvas.owner[:bottom] = tag


def draw_peaks(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """Mountains, far to near: one flank lit and one shaded, gullies, snow on the high ones, mist below."""
    if not land.peaks:
        return
    bottom, short = land.horizon * canvas.height + 1, canvas.short
    count = np.arange(len(land.peaks), dtype=np.float32)
    crests = smooth_noise(key, 20, canvas.y[:, 0] * (14 / short), count)  # (H, N), how each crest line wanders
    notches = smooth_noise(key, 21, count, canvas.x[0] * (13 / short))  # (N, W), what is cut out of its flanks
    for n, peak in enumerate(land.peaks):
        x, tall = peak.u * canvas.width, peak.rise * short
        run = 1.25 * tall / peak.slope + 2
        window = canvas.window(x - run, bottom - tall - 2, x + run, bottom)
        if window is None:
            continue
        down = canvas.y[window[0]] - (bottom - tall)  # (h, 1), pixels below the summit
        part = np.minimum(np.maximum(down * (1 / tall), 0), 1)
        across = canvas.x[:, window[1]] - x  # (1, w)
        crest, notch = crests[window[0], n : n + 1], notches[n : n + 1, window[1]]  # (h, 1), (1, w)
        side = across - crest * (part * (0.05 * short))  # (h, w), from the crest line
        bumpy = down + notch * (0.045 * tall) * np.minimum(abs(across) * (8 / short), 1)
        distance = abs(across) * peak.slope - bumpy * (0.62 + 0.5 * part)
        facing = 1.0 if land.sun > 0 else -1.0
        lit = np.minimum(np.maximum(side * facing + canvas.grain[window] * (0.014 * short) + 0.5, 0), 1)
        lit *= 0.84 + 0.16 * notch
        color = land.lit(land.rock, 0.05 + 0.5 * n / len(land.peaks))
        shade = planes(scaled(times(color, land.light.shadow), 1.1))
        paint = shade + (planes(color) - shade) * lit  # (3, h, w)
        if peak.snow < 0.6 and peak.rise > 0.15:
            white = planes(land.lit((0.96, 0.97, 1.0), 0.5)) * (0.78 + 0.22 * lit)
            snowy = ((0.05 + 0.06 * peak.snow) * short - down) + (canvas.grain[window] + notch) * (0.025 * short)
            paint += (white - paint) * np.minimum(np.maximum(snowy, 0), 1)
        paint += (planes(land.light.haze) - paint) * (part * part * (0.25 + 0.4 * land.haze))
        canvas.paint(window, canvas.cover(window, distance * 0.6, 0.8), paint, tag)


def draw_grass(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """The ground from the horizon to the bottom: soft hills behind it, patches, blades, flowers on some meadows."""
    height, short = canvas.height, canvas.short
    first = max(int((land.horizon - land.hill) * height) - 1, 0)
    y = canvas.y[first:]  # (h, 1)
    t = np.minimum(np.maximum((y * (1 / height) - land.horizon) * (1 / (1 - land.horizon)), 0), 1)  # (h, 1)
    ground = planes(land.lit(land.grass)) * (0.94 + 0.06 * t)
    ground = ground + (planes(land.light.haze) - ground) * ((1 - t) * (1 - t) * land.haze)  # (3, h, 1)
    # Rows of the patches crowd together towards the horizon, as perspective does.
    rows = (3.2 / (t[:, 0] + 0.14)).astype(np.float32)
    patches = smooth_noise(key, 30, rows, canvas.x[0] * (5 / short))  # (h, W)
    where = patches.copy()
    patches *= 0.10
    patches += canvas.grain[first:] * (0.03 + 0.10 * t)
    patches += 1
    ground = ground * patches
    if land.flowers:
        meadow = (canvas.grain[first:] - 0.56) * 9 * np.minimum(np.maximum(where * 12, 0), 1)
        meadow = np.minimum(np.maximum(meadow, 0), 1) * np.minimum(np.maximum(t * 3 - 0.5, 0), 0.8)
        ground += (planes(land.lit(land.flowers)) - ground) * meadow
    ridge = smooth_noise(key, 31, np.zeros(1, np.float32), canvas.x[0] * (2.3 / short))  # (1, W)
    skyline = land.horizon * height - (0.5 + 0.5 * ridge) * (land.hill * height)
    window = slice(first, height), slice(0, canvas.width)
    canvas.paint(window, canvas.cover(window, skyline - y), ground, tag)


def draw_water(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """Water reflects the image above the horizon, broken by ripples, with a darker bank."""
    if land.water is None:
        return
    height, short = canvas.height, canvas.short
    first = min(max(int(land.horizon * height), 0), height - 1)
    window = slice(first, height), slice(0, canvas.width)
    y = canvas.y[first:]
    distance = land.water.distance(canvas.x * (1 / canvas.width), y * (1 / height), canvas.width, height)
    distance = distance + canvas.grain[window] * (0.006 * short)
    t = (y * (1 / height) - land.horizon) * (1 / (1 - land.horizon))
    reflected = np.maximum(first - 1 - np.arange(height - first) * first // (height - first), 0)
    ripple = smooth_noise(key, 40, (9 / (t[:, 0] + 0.2)).astype(np.float32), canvas.x[0] * (9 / short))
    paint = canvas.image[:, reflected]  # (3, h, W)
    paint *= 0.80 + ripple * 0.10
    tint = planes(land.lit(rgb(58, 112, 140)))
    paint += (tint - paint) * (0.25 + 0.25 * t)
    bank = planes(land.lit(mix(land.grass, rgb(150, 130, 92), 0.6), 1.0, 0.75))
    canvas.paint(window, canvas.cover(window, distance - 0.012 * short * (0.3 + t)), bank + np.zeros_like(paint))
    canvas.paint(window, canvas.cover(window, distance), paint, tag)


def draw_roads(canvas: Canvas, land: Land, tag: int) -> None:
    """Roads with a pale verge, a grainy surface and a dashed middle line."""
    height, width, short = canvas.height, canvas.width, canvas.short
    first = min(max(int(land.horizon * height), 0), height - 1)
    u, v = canvas.x * (1 / width), canvas.y[first:] * (1 / height)
    t = (v - land.horizon) * (1 / (1 - land.horizon))  # (h, 1)
    for road in land.roads:
        window = slice(first, height), slice(0, width)
        distance = road.distance(u, v, width, height)
        surface = planes(land.lit(land.road_color))
        surface = surface + (planes(land.light.haze) - surface) * ((1 - t) * (1 - t) * land.haze)
        paint = surface * (1 + canvas.grain[window] * 0.07)
        pale = planes(land.lit(mix(land.road_color, (0.96, 0.94, 0.88), 0.45)))
        edge = np.minimum(np.maximum(distance * (1 / short) * 60 / (t + 0.1) + 2.0, 0), 1) * 0.7
        paint += (pale - paint) * edge
        paint += (pale - paint) * _dashes(road, u, v, t, width, height)
        canvas.paint(window, canvas.cover(window, distance), paint, tag)


def _dashes(road: Band, u: Floats, v: Floats, t: Floats, width: int, height: int) -> Floats:
    """Coverage of the dashed line along the middle of a road."""
    if isinstance(road, Receding):
        along = 2.2 / (t + 0.12)  # (h, 1)
        off = abs(u - road.centre(t)) * width - t * (road.half * 0.05 * width)
    else:
        assert isinstance(road, Crossing)
        along = u * 9
        off = abs(v - road.middle(u)) * height - road.half * 0.06 * height
    on = np.minimum(np.maximum((abs(along - np.floor(along) - 0.5) - 0.22) * 12, 0), 1)
    return np.minimum(np.maximum(0.5 - off, 0), 1) * on
