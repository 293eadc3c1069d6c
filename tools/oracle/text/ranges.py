"""Code points as ranges, for the makers of tables."""


def ranges(points):
    """[first, last] of each run in ascending code points."""
    out = []
    for c in points:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out
