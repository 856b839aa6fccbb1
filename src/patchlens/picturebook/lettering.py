"""Capital letters for signs, drawn here as strokes.

The letters are our own, because installed fonts differ between machines and the same seed must give the
same picture everywhere. Each one is SVG path data on a grid 4 wide and 6 high, with the origin at the top
left and y pointing down, meant to be stroked about 1.0 wide with round caps and joins.
"""

LETTERS: dict[str, str] = {
    "a": "M0 6L2 0L4 6M0.8 4H3.2",
    "b": "M0 0V6H2.4Q4 6 4 4.4Q4 2.9 2.4 2.9H0M0 0H2.2Q3.6 0 3.6 1.4Q3.6 2.9 2.2 2.9",
    "c": "M4 1.2Q3.4 0 2.1 0C0.7 0 0 1.2 0 3C0 4.8 0.7 6 2.1 6Q3.4 6 4 4.8",
    "d": "M0 0V6H1.6C3.2 6 4 4.8 4 3C4 1.2 3.2 0 1.6 0Z",
    "e": "M4 0H0V6H4M0 3H3.2",
    "f": "M4 0H0V6M0 3H3.2",
    "g": "M4 1.2Q3.4 0 2.1 0C0.7 0 0 1.2 0 3C0 4.8 0.7 6 2.1 6C3.4 6 4 5.2 4 3.4H2.4",
    "h": "M0 0V6M4 0V6M0 3H4",
    "i": "M0.8 0H3.2M2 0V6M0.8 6H3.2",
    "j": "M1.4 0H4V4C4 5.4 3.3 6 2 6C0.8 6 0 5.4 0 4.2",
    "k": "M0 0V6M4 0L0 3.4M1.4 2.4L4 6",
    "l": "M0 0V6H4",
    "m": "M0 6V0L2 3.4L4 0V6",
    "n": "M0 6V0L4 6V0",
    "o": "M2 0C0.6 0 0 1.2 0 3C0 4.8 0.6 6 2 6C3.4 6 4 4.8 4 3C4 1.2 3.4 0 2 0Z",
    "p": "M0 6V0H2.3Q4 0 4 1.7Q4 3.4 2.3 3.4H0",
    "q": "M2 0C0.6 0 0 1.2 0 3C0 4.8 0.6 6 2 6C3.4 6 4 4.8 4 3C4 1.2 3.4 0 2 0ZM2.4 4.2L4 6",
    "r": "M0 6V0H2.3Q4 0 4 1.6Q4 3.2 2.3 3.2H0M2 3.2L4 6",
    "s": "M3.9 1.2Q3.4 0 2 0Q0.1 0 0.1 1.5C0.1 3.4 4 2.6 4 4.5Q4 6 2 6Q0.5 6 0 4.8",
    "t": "M0 0H4M2 0V6",
    "u": "M0 0V3.8C0 5.3 0.7 6 2 6C3.3 6 4 5.3 4 3.8V0",
    "v": "M0 0L2 6L4 0",
    "w": "M0 0L0.6 6L2 2.8L3.4 6L4 0",
    "x": "M0 0L4 6M4 0L0 6",
    "y": "M0 0L2 3L4 0M2 3V6",
    "z": "M0 0H4L0 6H4",
}
LETTER_WIDTH = 4.0
LETTER_HEIGHT = 6.0
LETTER_GAP = 1.6


def lettering(word: str) -> tuple[str, float]:
    """Returns a word as SVG path elements, one per letter, and how wide it is.

    Only `fill="none"` is set on the paths, so that the colour, width, caps and joins of the stroke come from
    the element that the caller puts around them. The width runs from the left edge of the first letter's grid
    to the right edge of the last one's and leaves out what the stroke adds on either side.

    Args:
        word: The word to write, in the letters a to z, which come out as capitals.

    Returns:
        The SVG text, a `<g>` for each letter, and the word's width in grid units, 0.0 for an empty word.

    Raises:
        ValueError: The word has a character other than a to z.
    """
    parts: list[str] = []
    for place, letter in enumerate(word):
        path = LETTERS.get(letter)
        if path is None:
            raise ValueError(f"no letter is drawn for {letter!r} in {word!r}: only a to z can be written")
        across = round(place * (LETTER_WIDTH + LETTER_GAP), 6)
        parts.append(f'<g transform="translate({across} 0)"><path d="{path}" fill="none"/></g>')
    width = round(max(0.0, len(word) * (LETTER_WIDTH + LETTER_GAP) - LETTER_GAP), 6)
    return "".join(parts), width
