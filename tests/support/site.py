"""What is looked for on the pages of the docs site: in their HTML, and in a browser."""

import re
from html.parser import HTMLParser

__all__ = ["BUILT", "DRAWN", "FAULTS", "SWITCH", "contrast", "loaded_from_elsewhere"]

# Whether the theme has taken a palette
BUILT = "() => document.body.dataset.mdColorScheme !== undefined"

# A click on the switch between light and dark
SWITCH = "() => document.querySelector('[data-md-component=palette] label:not([hidden])').click()"

# How far a page is wider than its window, and text whose contrast with what is behind it is below
# WCAG's 4.5, or 3 where it is large. A colour that is clear lets the one behind through.
FAULTS = """() => {
    const colour = (text) => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = (top, low) => top.slice(0, 3).map((c, i) => c * top[3] + low[i] * (1 - top[3]));
    const light = (rgb) => rgb
        .map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = new Map();
    const under = (node) => {
        if (node === null) return [255, 255, 255];
        if (!behind.has(node)) {
            const own = colour(getComputedStyle(node).backgroundColor);
            const rest = under(node.parentElement);
            behind.set(node, own[3] ? over(own, rest) : rest);
        }
        return behind.get(node);
    };
    const root = document.documentElement;
    const faults = root.scrollWidth > root.clientWidth
        ? [`${root.scrollWidth - root.clientWidth} px wider than the window`]
        : [];
    const seen = new Set();
    for (const node of document.querySelectorAll("article *, nav.md-tabs *")) {
        const text = [...node.childNodes].map((c) => (c.nodeType === 3 ? c.data : "")).join("");
        const box = node.getBoundingClientRect();
        if (!text.trim() || !box.width || node.closest(".headerlink, svg")) continue;
        const style = getComputedStyle(node);
        const size = parseFloat(style.fontSize);
        const back = under(node);
        const [a, b] = [light(over(colour(style.color), back)), light(back)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        const wanted = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
        const kind = `${node.tagName}.${node.className} ${ratio.toFixed(2)} < ${wanted}`;
        if (ratio < wanted && !seen.has(kind)) {
            seen.add(kind);
            faults.push(`${kind}: ${text.trim().slice(0, 40)}`);
        }
    }
    return faults;
}"""

# Of a figure: the colour of its ground, of its first words without one of their own, and words
# that reach out of it
DRAWN = """() => {
    const plain = document.querySelector("text:not([style])");
    const size = document.documentElement.viewBox.baseVal;
    const out = (box) => box.x < 0 || box.y < 0
        || box.x + box.width > size.width || box.y + box.height > size.height;
    return [
        getComputedStyle(document.querySelector("rect")).fill,
        getComputedStyle(plain).fill,
        [...document.querySelectorAll("text")]
            .filter((node) => out(node.getBBox()))
            .map((node) => node.textContent),
    ];
}"""


def contrast(one, other):
    """WCAG 2's contrast of two colours such as #1f2328 or rgb(31, 35, 40), from 1 to 21."""

    def light(colour):
        found = re.findall(r"[0-9a-f]{2}(?=[0-9a-f]*$)", colour)
        numbers = (
            [int(part, 16) for part in found] if colour[0] == "#" else re.findall(r"\d+", colour)
        )
        parts = [int(c) / 255 for c in numbers]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(c * w for c, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


class _Loaded(HTMLParser):
    """What a browser asks for as it shows a page: not what a reader may click."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def handle_starttag(self, tag, attributes):
        """Note what the element loads."""
        given = dict(attributes)
        names = {"link": ("href",), "a": ()}.get(tag, ("src", "srcset", "data", "poster"))
        self.asked += [given[name] for name in names if given.get(name)]


def loaded_from_elsewhere(path):
    """The addresses of other hosts that a page of the site loads."""
    parser = _Loaded()
    parser.feed(path.read_text("utf-8"))
    return [url for url in parser.asked if url.startswith(("http:", "https:", "//"))]
