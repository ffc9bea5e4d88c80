"""Draws `pipeline.svg`, the picture of the method in the README: python assets/make_pipeline.py"""

from __future__ import annotations

from html import escape
from pathlib import Path

FILE = Path(__file__).with_name('pipeline.svg')

WIDTH, HEIGHT = 1080, 752
LEFT, COLUMNS, RIGHT = 36, 372, 836
"""Where the text on the left, the columns of the layers, and the text on the right begin."""
BLOCK, PITCH = 44, 54
"""Width of a layer, and the distance from one layer to the next."""

SCORES = (0.31, 0.17, 0.72, 0.40, 0.60, 0.97, 0.24, 0.84)
"""The score of each layer, in the order of the network."""
RANKED = sorted(range(len(SCORES)), key=SCORES.__getitem__)
STABLE = RANKED[: len(SCORES) // 2]
RATES = dict(zip(RANKED, (7.0, 5.6, 4.4, 3.4, 3.4, 2.6, 1.9, 1.3), strict=True))
"""How fast each layer's average follows, as the width of an arrow: 1 - W, not to scale."""

INK, MUTED, LINE = '#1f2328', '#57606a', '#d0d7de'
STRONG = {True: '#1f5fa8', False: '#bf4f08'}
TINT = {True: '#e4effb', False: '#fdebdc'}
"""Colours of stable (True) and unstable (False) layers: trained, and averaged."""


def text(x: float, y: float, lines: str | list[str], size: int = 15, colour: str = INK, **style: str) -> str:
    """Lines of text, 1.4 sizes apart, the first one's baseline at `y`."""
    lines = [lines] if isinstance(lines, str) else lines
    attributes = ''.join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    spans = ''.join(f'<tspan x="{x}" y="{y + 1.4 * size * i:g}">{line}</tspan>' for i, line in enumerate(lines))
    return f'<text font-size="{size}" fill="{colour}"{attributes}>{spans}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, stroke: str = 'none', more: str = '') -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{stroke}"'
        f' stroke-width="1.5"{more}/>'
    )


def line(points: list[tuple[float, float]], colour: str = MUTED, width: float = 1.5, more: str = '') -> str:
    path = ' '.join(f'{x:g},{y:g}' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{more}/>'


def arrow(points: list[tuple[float, float]], colour: str = MUTED, width: float = 1.5) -> str:
    """A line with a head at its end; the last stretch is horizontal or vertical."""
    (x0, y0), (x, y) = points[-2:]
    length, half = 7 + width, 3.5 + 0.75 * width
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    base_x, base_y = x - length * dx, y - length * dy
    corners = ((x, y), (base_x + half * dy, base_y + half * dx), (base_x - half * dy, base_y - half * dx))
    head = ' '.join(f'{a:g},{b:g}' for a, b in corners)
    return line([*points[:-1], (base_x, base_y)], colour, width) + f'<polygon points="{head}" fill="{colour}"/>'


def centre(layer: int) -> float:
    return COLUMNS + PITCH * layer + BLOCK / 2


def network(y: float, names: list[str], trained: set[int], dashed: bool = True) -> list[str]:
    """A row of layers: full where they are trained, light where they are averages."""
    parts = [line([(COLUMNS, y + 20), (COLUMNS + 7 * PITCH + BLOCK, y + 20)], MUTED)]
    for layer, name in enumerate(names):
        stable, full = layer in STABLE, layer in trained
        fill, stroke = (STRONG if full else TINT)[stable], STRONG[stable]
        dash = ' stroke-dasharray="4 3"' if dashed and not full else ''
        parts.append(rectangle(COLUMNS + PITCH * layer, y, BLOCK, 40, fill, stroke, dash))
        label = f'{name}<tspan font-size="11" dy="3">{layer + 1}</tspan>'
        colour = '#ffffff' if full else STRONG[stable]
        parts.append(
            f'<text x="{centre(layer):g}" y="{y + 25:g}" font-size="15" fill="{colour}" text-anchor="middle"'
            f' font-weight="600">{label}</text>'
        )
    return parts


def heading(y: float, title: str, lines: list[str]) -> list[str]:
    return [text(LEFT, y, title, 18, font_weight='600'), text(LEFT, y + 28, lines, colour=MUTED)]


def scoring(top: float) -> list[str]:
    """Stage 1: a bar a layer, and the line between the two groups."""
    base, high = top + 152, 128
    threshold = base - high * (SCORES[STABLE[-1]] + SCORES[RANKED[len(STABLE)]]) / 2
    lines = [
        'Batches run forward and backward,',
        'without an update. A layer’s score',
        'is the variance of its gradient.',
    ]
    parts = heading(top + 30, '1. Score and split', lines)
    for layer, score in enumerate(SCORES):
        x, height = COLUMNS + PITCH * layer, high * score
        parts.append(rectangle(x, base - height, BLOCK, height, STRONG[layer in STABLE]))
    parts.append(line([(COLUMNS - 8, base), (COLUMNS + 7 * PITCH + BLOCK + 8, base)], MUTED))
    parts.append(line([(COLUMNS - 8, threshold), (RIGHT - 14, threshold)], INK, 1.5, ' stroke-dasharray="6 4"'))
    x = COLUMNS - 22
    middle = base - high / 2
    parts.append(
        f'<text x="{x}" y="{middle:g}" font-size="15" fill="{MUTED}" text-anchor="middle"'
        f' transform="rotate(-90 {x} {middle:g})">score</text>'
    )
    parts.append(text(RIGHT, threshold - 35, ['Unstable layers:', 'the highest scores'], colour=STRONG[False]))
    parts.append(text(RIGHT, threshold + 24, ['Stable layers:', 'the lowest scores'], colour=STRONG[True]))
    parts.append(
        text(centre(3) + PITCH / 2, base + 24, 'layers 1 to 8 of one network', colour=MUTED, text_anchor='middle')
    )
    return parts


def branches(top: float) -> list[str]:
    """Stage 2: two copies of the network, and an average a layer from one to the other."""
    first, second = top + 50, top + 226
    lines = ['Two copies learn from the same', 'batches. Each trains one group;', 'its other layers are frozen and']
    lines += ['follow the other copy’s trained', 'ones by a moving average.']
    parts = heading(top + 30, '2. Train two branches', lines)
    everything, stable = set(range(len(SCORES))), set(STABLE)
    parts += network(first, ['P'] * 8, stable) + network(second, ['A'] * 8, everything - stable)
    end = COLUMNS + 7 * PITCH + BLOCK
    parts.append(text(COLUMNS, first - 14, 'Primary: trains the stable layers', font_weight='600'))
    parts.append(text(COLUMNS, second + 64, 'Auxiliary: trains the unstable layers', font_weight='600'))
    for layer in everything:
        ends = (first + 44, second - 5) if layer in stable else (second - 4, first + 45)
        x = centre(layer)
        parts.append(arrow([(x, ends[0]), (x, ends[1])], STRONG[layer in stable], RATES[layer]))
    middle = (first + second + 40) / 2
    batch = COLUMNS - 76
    parts += [rectangle(batch - 14, middle - 19, 60, 38, '#f6f8fa', MUTED)]
    parts.append(text(batch + 16, middle + 5, 'batch', text_anchor='middle'))
    for y, edge in ((first + 20, middle - 19), (second + 20, middle + 19)):
        parts.append(arrow([(batch + 16, edge), (batch + 16, y), (COLUMNS - 3, y)]))
        parts.append(arrow([(end + 2, y), (RIGHT - 3, y)]))
        parts.append(rectangle(RIGHT, y - 19, 92, 38, '#f6f8fa', MUTED))
        parts.append(text(RIGHT + 46, y + 5, 'own loss', text_anchor='middle'))
    parts.append(text(RIGHT, middle - 40, 'A ← W A + (1 − W) P', colour=STRONG[True], font_weight='600'))
    parts.append(text(RIGHT, middle - 16, 'P ← W P + (1 − W) A', colour=STRONG[False], font_weight='600'))
    parts.append(
        text(
            RIGHT,
            middle + 12,
            ['DPU: one W per layer. In a', 'group, the higher the score,', 'the slower the average.'],
            14,
            MUTED,
        )
    )
    return parts


def composite(top: float) -> list[str]:
    """The network that is published: the averaged half of each branch."""
    lines = ['The averaged half of each branch:', 'stable layers of the auxiliary,', 'unstable layers of the primary.']
    parts = heading(top + 30, '3. Publish the composite', lines)
    parts += network(top + 34, ['A' if layer in STABLE else 'P' for layer in range(len(SCORES))], set(), dashed=False)
    lines = ['One ordinary network:', 'it is validated and saved.']
    parts.append(text(RIGHT, top + 49, lines, colour=MUTED))
    return parts


def legend(y: float) -> list[str]:
    """What the colours and the arrows' widths mean; `y` is the baseline."""
    parts = []
    for x, label, colours, dash in (
        (COLUMNS, 'trained by gradients', STRONG, ''),
        (COLUMNS + 214, 'frozen, a moving average', TINT, ' stroke-dasharray="4 3"'),
    ):
        parts += [rectangle(x + 21 * (not s), y - 13, 16, 16, colours[s], STRONG[s], dash) for s in (True, False)]
        parts.append(text(x + 46, y, label, 14, MUTED))
    for row, rate in enumerate((4.4, 1.3)):
        parts.append(arrow([(RIGHT, y - 10 + 10 * row), (RIGHT + 36, y - 10 + 10 * row)], MUTED, rate))
    return [*parts, text(RIGHT + 46, y, 'fast and slow averages', 14, MUTED)]


def picture() -> str:
    tops = (18, 242, 568)
    parts = [rectangle(1, 1, WIDTH - 2, HEIGHT - 2, '#ffffff', LINE)]
    parts += scoring(tops[0]) + branches(tops[1]) + composite(tops[2])
    parts += [line([(LEFT, y), (WIDTH - LEFT, y)], LINE) for y in (tops[1] - 6, tops[2] - 6, HEIGHT - 56)]
    parts += legend(HEIGHT - 23)
    name = 'Layer-Decomposition Training'
    about = (
        'Stage 1 scores every layer by the variance of its gradient and splits them into stable and unstable ones. '
        'Stage 2 trains two copies: the primary its stable, the auxiliary its unstable layers; frozen layers follow '
        'the other copy by a moving average. The composite takes the averaged half of each.'
    )
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            ' role="img" font-family="-apple-system, \'Segoe UI\', \'Noto Sans\', Helvetica, Arial, sans-serif">',
            f'<title>{escape(name)}</title>',
            f'<desc>{escape(about)}</desc>',
            *parts,
            '</svg>\n',
        ]
    )


if __name__ == '__main__':
    FILE.write_text(picture(), encoding='utf-8')
    print(FILE)
