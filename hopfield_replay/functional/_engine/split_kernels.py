"""Triton kernels of split products: float32 numbers as sums of bfloat16 ones, scores that are never written."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def split_rows(  # type: ignore[no-untyped-def]
    points,
    centre,
    parts,
    squares,
    linear,
    rows,
    dimension,
    depth,
    stride,
    part_stride,
    PARTS: tl.constexpr,
    ROUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Centre one row, write its parts (zeros after ``dimension``), its squared norm and its product with the centre.

    The norm is that of the sum of the parts (``ROUNDED``) or of the centred vector in float32.
    """
    row = tl.program_id(0).to(tl.int64)
    square = tl.zeros((BLOCK,), tl.float64)
    along = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, depth, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < dimension
        middle = tl.load(centre + column, mask=inside, other=0.0).to(tl.float64)
        moved = tl.load(points + row * stride + column, mask=inside, other=0.0).to(tl.float64) - middle
        along += moved * middle
        whole = moved.to(tl.float32)
        rest = whole
        for part in tl.static_range(PARTS):
            rounded = rest.to(tl.bfloat16)
            tl.store(parts + part * part_stride + row * depth + column, rounded, mask=column < depth)
            rest -= rounded.to(tl.float32)  # exact
        kept = whole.to(tl.float64) - (rest.to(tl.float64) if ROUNDED else 0.0)
        square += kept * kept
    tl.store(squares + row, tl.sum(square, axis=0))
    tl.store(linear + row, tl.sum(along, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _add(part, x, y, WIDEN: tl.constexpr):  # type: ignore[no-untyped-def]
    if WIDEN:  # Triton's interpreter holds bfloat16 as integers
        return tl.dot(x.to(tl.float32), y.to(tl.float32), part, input_precision="ieee")
    return tl.dot(x, y, part)


@triton.jit  # type: ignore[untyped-decorator]
def strips_of_products(  # type: ignore[no-untyped-def]
    x,
    y,
    bias,
    own,
    maxima,
    totals,
    squares,
    scores,
    rows,
    columns,
    strips,
    depth,
    x_part,
    y_part,
    scale,
    TERMS: tl.constexpr,
    LEAVE_OUT: tl.constexpr,
    SQUARE: tl.constexpr,
    SCORES: tl.constexpr,
    WIDEN: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Maximum m and sum of 2^(u - m) of scores u = scale <x, y> + bias over strips of columns.

    A tensor core drops the last bits at each addition, so that errors of long sums do not average out. A product over
    ``BLOCK`` coordinates therefore starts from zero, with its small parts first, and is added with rounding.
    """
    number = tl.program_id(0)
    row_tiles = tl.cdiv(rows, ROWS)
    spans = tl.cdiv(columns, COLUMNS * TILES)
    # neighbouring programs share rows and columns, which they then find in the cache
    first = number // (GROUP * spans) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    inner = number % (GROUP * spans)
    row = (first + inner % height) * ROWS + tl.arange(0, ROWS)
    span = inner // height
    there = tl.minimum(row, rows - 1).to(tl.int64)
    step_of = tl.arange(0, BLOCK)
    x_rows = x + there[:, None] * depth + step_of[None, :]
    left_out = tl.load(own + there) if LEAVE_OUT else there
    steps = depth // BLOCK
    top = tl.full((ROWS, WIDTH), float("-inf"), tl.float32)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    square = tl.zeros((ROWS, WIDTH), tl.float32)
    products = tl.zeros((ROWS, COLUMNS), tl.float32)
    step = 0
    tile = 0
    for _ in range(steps * TILES):  # one loop, so that the next tile is loaded while this one is summed
        column = (span * TILES + tile) * COLUMNS + tl.arange(0, COLUMNS)
        near = tl.minimum(column, columns - 1).to(tl.int64)
        x_at = x_rows + step * BLOCK
        y_at = y + near[None, :] * depth + (step * BLOCK + step_of)[:, None]
        x1 = tl.load(x_at)
        y1 = tl.load(y_at)
        x2 = tl.load(x_at + x_part)
        y2 = tl.load(y_at + y_part)
        part = tl.zeros((ROWS, COLUMNS), tl.float32)
        if TERMS == 6:
            x3 = tl.load(x_at + 2 * x_part)
            y3 = tl.load(y_at + 2 * y_part)
            part = _add(part, x1, y3, WIDEN)
            part = _add(part, x3, y1, WIDEN)
        if TERMS >= 4:
            part = _add(part, x2, y2, WIDEN)
        part = _add(part, x1, y2, WIDEN)
        part = _add(part, x2, y1, WIDEN)
        part = _add(part, x1, y1, WIDEN)
        products += part
        step += 1
        if step == steps:
            constant = tl.load(bias + column, mask=column < columns, other=float("-inf"))
            score = products * scale + constant[None, :]
            if LEAVE_OUT:
                score = tl.where(column[None, :] == left_out[:, None], float("-inf"), score)
            if SCORES:
                inside = (row < rows)[:, None] & (column < columns)[None, :]
                tl.store(scores + there[:, None] * columns + column[None, :], score, mask=inside)
            score = tl.reshape(score, (ROWS, COLUMNS // WIDTH, WIDTH))
            high = tl.maximum(top, tl.max(score, axis=1))
            safe = tl.where(high == float("-inf"), 0.0, high)
            shrink = tl.exp2(top - safe)
            weight = tl.exp2(score - safe[:, None, :])
            total = total * shrink + tl.sum(weight, axis=1)
            if SQUARE:
                square = square * shrink * shrink + tl.sum(weight * weight, axis=1)
            top = high
            products = tl.zeros((ROWS, COLUMNS), tl.float32)
            step = 0
            tile += 1
    strip = span * WIDTH + tl.arange(0, WIDTH)
    out = there[:, None] * strips + strip[None, :]
    inside = (row < rows)[:, None] & (strip < strips)[None, :]
    tl.store(maxima + out, top, mask=inside)
    tl.store(totals + out, total, mask=inside)
    if SQUARE:
        tl.store(squares + out, square, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def exact_strips(  # type: ignore[no-untyped-def]
    x,
    y,
    centre,
    rows,
    firsts,
    results,
    columns,
    dimension,
    x_stride,
    y_stride,
    DOT: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """|x - y|^2, or <x, y - c>, of one query and the columns of one strip, summed in float64."""
    pair = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + pair)
    column = tl.load(firsts + pair) + tl.arange(0, SIZE) * WIDTH
    there = column < columns
    result = tl.zeros((SIZE,), tl.float64)
    for start in range(0, dimension, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < dimension
        query = tl.load(x + row * x_stride + place, mask=inside, other=0.0).to(tl.float64)
        stored_at = y + column[:, None] * y_stride + place[None, :]
        stored = tl.load(stored_at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float64)
        if DOT:
            middle = tl.load(centre + place, mask=inside, other=0.0).to(tl.float64)
            result += tl.sum(query[None, :] * (stored - middle[None, :]), axis=1)
        else:
            difference = stored - query[None, :]
            result += tl.sum(difference * difference, axis=1)
    tl.store(results + pair * SIZE + tl.arange(0, SIZE), result)
