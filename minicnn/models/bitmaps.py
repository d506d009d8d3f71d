"""The ten digits as bitmaps, which LeNet-5's output of 1998 compares with.

"A stylized image of the corresponding character class drawn on a 7×12 bitmap", +1 on −1 (LeCun et al. 1998, section
II.B). Drawn anew: the published ones exist only as a picture, figure 3.
"""

from __future__ import annotations

import numpy as np

DIGITS = """
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ##...## ...###. ##..... .##.... ##...## ##...## ##...##
##...## .####.. ##...## .....## ...###. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## ..#.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. .....## .....## ..#.##. ######. ##.###. ....##. ##...## ##...##
##...## ...##.. ....##. ..####. .#..##. ##...## ###..## ...##.. .#####. ##...##
##...## ...##.. ...##.. .....## .#..##. .....## ##...## ...##.. ##...## .######
##...## ...##.. ..##... .....## #...##. .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
"""


def codes(num_classes: int) -> np.ndarray:
    """The bitmaps as (num_classes, 84) of ±1; random ones, always the same, for classes that are not digits."""
    rows = [line.split() for line in DIGITS.split("\n") if line]
    drawn = [[1.0 if pixel == "#" else -1.0 for row in rows for pixel in row[digit]] for digit in range(10)]
    others = np.random.default_rng(1998).choice([-1.0, 1.0], (max(num_classes - 10, 0), 84))
    return np.concatenate([drawn, others]).astype(np.float32)[:num_classes]
