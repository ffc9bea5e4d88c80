"""Kernels of the selective scan on a GPU, forward and backward; `triton_scan.py` launches them.

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t        y_t = C_t . h_t + D u_t

Every program is one warp. Its lanes are neighbouring segments of time, of one channel or of several: a lane walks the
`STEPS` steps of its segment in registers, and only the state passed from one segment to the next is scanned across the
lanes. All lanes together form a tile. Each lane handles `ROWS` such channels, which share the loads of B and C. The
order in which a lane walks its steps is known at compile time, and the order of the lanes is part of the addresses, so
walking a group backwards costs nothing.

Forward walks the tiles in sequence and keeps the states in between. Backward first walks them in reverse, only for the
gradients with respect to these states, which needs no scan: what step t adds to the gradient of the state before a tile
has decayed by exp(A (delta_1 + … + delta_t)). After that, all tiles are independent, so a program can sum the gradients
of B and C over many channels in a fixed order, and even one image keeps a GPU busy.

Shapes: u (batch, u_groups, dim, length), delta (batch, groups, dim, length), A (groups, dim, state), B, C (batch,
groups, state, length), D, bias (groups, dim); all float32 and contiguous. Group g reads u of group g % u_groups. The
last `backwards` groups are walked from the end of the sequence to its start.

In the kernels, a tensor has one element per lane, (SPAN); a tuple of `STEPS` of them holds the steps of every lane in
the order in which they are walked. The kept states and their gradients are (batch, groups, tile, state, dim).
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# Lanes of a program: one warp, which never waits for another.
SPAN = tl.constexpr(32)
# Steps of a lane, a multiple of 4 as every load is a vector of 4. With 4 the scan across the lanes costs as much as the
# walk within them; with 16 backward runs out of registers (with 8 it takes 230 to 255 of them and spills nothing).
STEPS = tl.constexpr(8)
# Lanes of a channel: the whole warp where tiles follow each other and programs differ in their channels, a quarter of
# it where tiles are independent, as the sum over four channels, for B and C, is then a matter of two shuffles.
LONG = tl.constexpr(32)
LOG_LONG = tl.constexpr(5)
SHORT = tl.constexpr(8)
LOG_SHORT = tl.constexpr(3)


@triton.jit
def _softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), the logarithm as 2 atanh(z / (2 + z)); NaN stays NaN."""
    z = tl.exp2(tl.abs(x) * -LOG2E)
    s = z / (z + 2.0)
    q = s * s
    p = tl.fma(q, 2.0 / 13, 2.0 / 11)
    p = tl.fma(p, q, 2.0 / 9)
    p = tl.fma(p, q, 2.0 / 7)
    p = tl.fma(p, q, 2.0 / 5)
    p = tl.fma(p, q, 2.0 / 3)
    p = tl.fma(p, q, 2.0)
    return tl.where(x < 0, 0.0, x) + p * s


@triton.jit
def _sigmoid(x):
    z = tl.exp2(tl.abs(x) * -LOG2E)
    large = 1.0 / (1.0 + z)
    return tl.where(x < 0, z * large, large)


@triton.jit
def _lane(LANES: tl.constexpr):
    """Index of each lane among those of its channel."""
    return tl.arange(0, SPAN) % LANES


@triton.jit
def _row(channel, r: tl.constexpr, LANES: tl.constexpr):
    """The channel of each lane, for row `r` of the warp; the first of the program is `channel`."""
    return tl.arange(0, SPAN) // LANES + r * (SPAN // LANES) + channel


@triton.jit
def _first_step(tile, length, LANES: tl.constexpr, REVERSE: tl.constexpr):
    """Where in memory the steps of each lane begin; the lanes of a reversed group go down from the end."""
    walked = (tile * LANES + _lane(LANES)) * STEPS
    if REVERSE:
        return length - STEPS - walked
    else:
        return walked


@triton.jit
def _is_step(first, length, k: tl.constexpr, REVERSE: tl.constexpr):
    """Whether the k-th step of each lane exists; groups of 4 agree, as length and `first` are multiples of 4."""
    piece: tl.constexpr = (STEPS - 1 - k if REVERSE else k) // 4
    start = first + 4 * piece
    return (start >= 0) & (start < length)


@triton.jit
def _load_steps(pointer, first, length, valid, REVERSE: tl.constexpr):
    """Steps of each lane from rows that begin at `pointer`, a pointer or (SPAN) of them; 0 for missing steps."""
    steps = ()
    for piece in tl.static_range(STEPS // 4):
        start = first + 4 * piece
        here = valid & (start >= 0) & (start < length)
        vector = tl.load((pointer + start)[:, None] + tl.arange(0, 4)[None, :], mask=here[:, None], other=0.0)
        even, odd = tl.split(tl.reshape(vector, (SPAN, 2, 2)))
        step0, step2 = tl.split(even)
        step1, step3 = tl.split(odd)
        if REVERSE:
            steps = (step3, step2, step1, step0) + steps
        else:
            steps = steps + (step0, step1, step2, step3)
    return steps


@triton.jit
def _piece(steps, piece: tl.constexpr, REVERSE: tl.constexpr):
    """Four steps that are neighbours in memory, (SPAN, 4)."""
    start: tl.constexpr = STEPS - 1 - 4 * piece if REVERSE else 4 * piece
    sign: tl.constexpr = -1 if REVERSE else 1
    even = tl.join(steps[start], steps[start + 2 * sign])
    odd = tl.join(steps[start + sign], steps[start + 3 * sign])
    return tl.reshape(tl.join(even, odd), (SPAN, 4))


@triton.jit
def _store_steps(pointer, first, length, valid, steps, REVERSE: tl.constexpr):
    """The inverse of `_load_steps`."""
    for piece in tl.static_range(STEPS // 4):
        start = first + 4 * piece
        here = valid & (start >= 0) & (start < length)
        vector = _piece(steps, piece, REVERSE)
        tl.store((pointer + start)[:, None] + tl.arange(0, 4)[None, :], vector, mask=here[:, None])


@triton.jit
def _load_delta(delta, bias, row, first, length, valid, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr):
    """Delta after bias and softplus, 0 for missing steps, which leaves the state unchanged; and its sum."""
    raw = _load_steps(delta + row.to(tl.int64) * length, first, length, valid, REVERSE)
    shift = _load_channel(bias, row, valid)
    steps = ()
    total = tl.zeros((SPAN,), tl.float32)
    for k in tl.static_range(STEPS):
        step = raw[k] + shift
        if SOFTPLUS:
            step = _softplus(step)
        step = tl.where(valid & _is_step(first, length, k, REVERSE), step, 0.0)
        total += step
        steps = steps + (step,)
    return steps, total


@triton.jit
def _load_channel(pointer, row, valid):
    """One number per channel; zeros if the pointer is None."""
    if pointer is None:
        return tl.zeros((SPAN,), tl.float32)
    else:
        return tl.load(pointer + row, mask=valid, other=0.0)


@triton.jit
def _from_lane(x, source, LANES: tl.constexpr):
    """`x` of the lane `source`, (SPAN / LANES, LANES), of the same channel."""
    return tl.reshape(tl.gather(tl.reshape(x, (SPAN // LANES, LANES)), source, 1), (SPAN,))


@triton.jit
def _sum_lanes(x, LANES: tl.constexpr):
    """The sum over `LANES` neighbouring lanes, in each of them."""
    total = tl.sum(tl.reshape(x, (SPAN // LANES, LANES)), 1)
    return tl.reshape(tl.broadcast_to(total[:, None], (SPAN // LANES, LANES)), (SPAN,))


@triton.jit
def _enter_lanes(decay, value, carry, LANES: tl.constexpr, LOG_LANES: tl.constexpr, REVERSE: tl.constexpr):
    """Scans x -> decay x + value across the lanes of a channel, from the last lane to the first if REVERSE.

    tl.associative_scan(reverse=True) shuffles more, in some releases of Triton five times as much, and returns what
    leaves a lane, not what enters it.

    Args:
        decay: The factor that the steps of a lane apply.
        value: The value that they turn 0 into.
        carry: What enters the first lane.
        LANES: Lanes per channel.
        LOG_LANES: Its logarithm to base 2.
        REVERSE: Whether the last lane is the first.

    Returns:
        What enters each lane, and what leaves it.
    """
    number = tl.arange(0, LANES)[None, :] + tl.zeros((SPAN // LANES, 1), tl.int32)
    lane = _lane(LANES)
    if REVERSE:
        lane = LANES - 1 - lane
    value = tl.where(lane == 0, tl.fma(decay, carry, value), value)
    for i in tl.static_range(LOG_LANES):
        far = 1 << i
        source = tl.minimum(number + far, LANES - 1) if REVERSE else tl.maximum(number - far, 0)
        value = tl.where(lane >= far, tl.fma(decay, _from_lane(value, source, LANES), value), value)
        decay = tl.where(lane >= far, decay * _from_lane(decay, source, LANES), decay)
    source = tl.minimum(number + 1, LANES - 1) if REVERSE else tl.maximum(number - 1, 0)
    return tl.where(lane == 0, carry, _from_lane(value, source, LANES)), value


@triton.jit
def _decay(deltas, inputs, total, exponent, B):
    """The effect of one state of one row within each lane.

    Returns:
        Decays of the steps, their product, and the state that the steps turn 0 into.
    """
    decays = ()
    h = tl.zeros((SPAN,), tl.float32)
    for k in tl.static_range(STEPS):
        decays = decays + (tl.exp2(deltas[k] * exponent),)
        h = tl.fma(decays[k], h, inputs[k] * B[k])
    return decays, tl.exp2(total * exponent), h


@triton.jit
def _forward_tiles(
    u, delta, A, B, C, D, bias, y, states, length, dim, state, slots, channel,
    SOFTPLUS: tl.constexpr, KEEP: tl.constexpr, ROWS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """All tiles of the channels from `channel` on; pointers are at the start of the (batch, group).

    The states before every short tile are kept in that slot; without KEEP, those before a long one in two in turn.
    """
    lane = _lane(LONG)
    for tile in range(tl.cdiv(length, LONG * STEPS)):
        first = _first_step(tile, length, LONG, REVERSE)
        if KEEP:
            slot = tile * (LONG // SHORT)
            next_slot = slot + lane // SHORT + 1
            keep = (lane % SHORT == SHORT - 1) & (next_slot < slots)
        else:
            slot = tile % 2
            next_slot = 1 - slot + tl.zeros_like(lane)
            keep = lane == LONG - 1
        deltas, inputs, outputs, totals = (), (), (), ()
        for r in tl.static_range(ROWS):
            row = _row(channel, r, LONG)
            delta_r, total = _load_delta(delta, bias, row, first, length, row < dim, SOFTPLUS, REVERSE)
            u_r = _load_steps(u + row.to(tl.int64) * length, first, length, row < dim, REVERSE)
            skip = _load_channel(D, row, row < dim)
            input_r, output_r = (), ()
            for k in tl.static_range(STEPS):
                input_r = input_r + (delta_r[k] * u_r[k],)
                output_r = output_r + (u_r[k] * skip,)
            deltas, inputs, outputs = deltas + (delta_r,), inputs + (input_r,), outputs + (output_r,)
            totals = totals + (total,)
        # The states that another lane stored at the end of the previous tile.
        tl.debug_barrier()
        for n in range(state):
            B_n = _load_steps(B + n * length, first, length, lane >= 0, REVERSE)
            C_n = _load_steps(C + n * length, first, length, lane >= 0, REVERSE)
            new = ()
            for r in tl.static_range(ROWS):
                row = _row(channel, r, LONG)
                carry = tl.load(states + (slot * state + n) * dim + row, mask=(row < dim) & (tile > 0), other=0.0)
                exponent = tl.load(A + row * state + n, mask=row < dim, other=0.0) * LOG2E
                decays, decay, h = _decay(deltas[r], inputs[r], totals[r], exponent, B_n)
                h, left = _enter_lanes(decay, h, carry, LONG, LOG_LONG, False)
                tl.store(states + (next_slot * state + n) * dim + row, left, mask=(row < dim) & keep)
                output_r = ()
                for k in tl.static_range(STEPS):
                    h = tl.fma(decays[k], h, inputs[r][k] * B_n[k])
                    output_r = output_r + (tl.fma(h, C_n[k], outputs[r][k]),)
                new = new + (output_r,)
            outputs = new
        for r in tl.static_range(ROWS):
            row = _row(channel, r, LONG)
            _store_steps(y + row.to(tl.int64) * length, first, length, row < dim, outputs[r], REVERSE)


@triton.jit(do_not_specialize=['quarter', 'dim', 'state', 'slots', 'groups', 'u_groups', 'backwards'])
def forward_kernel(
    u, delta, A, B, C, D, bias, y, states, quarter, dim, state, slots, groups, u_groups, backwards,
    SOFTPLUS: tl.constexpr, KEEP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    length = quarter * 4  # so that Triton knows that vectors of 4 are aligned
    channel = tl.program_id(0) * (SPAN // LONG) * ROWS
    pair = tl.program_id(1).to(tl.int64)
    group = tl.program_id(1) % groups
    u += (pair // groups * u_groups + group % u_groups) * dim * length
    delta += pair * dim * length
    y += pair * dim * length
    A += group * dim * state
    B += pair * state * length
    C += pair * state * length
    if D is not None:
        D += group * dim
    if bias is not None:
        bias += group * dim
    states += pair * slots * state * dim
    if group < groups - backwards:
        _forward_tiles(
            u, delta, A, B, C, D, bias, y, states, length, dim, state, slots, channel, SOFTPLUS, KEEP, ROWS,
            False,
        )  # fmt: skip
    else:
        _forward_tiles(
            u, delta, A, B, C, D, bias, y, states, length, dim, state, slots, channel, SOFTPLUS, KEEP, ROWS,
            True,
        )  # fmt: skip


@triton.jit
def _adjoint_tiles(
    grad, delta, A, C, bias, adjoints, length, dim, state, slots, channel,
    SOFTPLUS: tl.constexpr, ROWS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Gradients of the states before each short tile of the channels from `channel` on, from last to first."""
    lane = _lane(LONG)
    later = tl.arange(0, LONG)[None, :] + tl.zeros((SPAN // LONG, 1), tl.int32)
    tiles = tl.cdiv(length, LONG * STEPS)
    for walked in range(tiles):
        tile = tiles - 1 - walked
        first = _first_step(tile, length, LONG, REVERSE)
        slot = tile * (LONG // SHORT) + lane // SHORT
        grads, sums, totals = (), (), ()
        for r in tl.static_range(ROWS):
            row = _row(channel, r, LONG)
            delta_r, own = _load_delta(delta, bias, row, first, length, row < dim, SOFTPLUS, REVERSE)
            grads = grads + (_load_steps(grad + row.to(tl.int64) * length, first, length, row < dim, REVERSE),)
            until = tl.reshape(tl.cumsum(tl.reshape(own, (SPAN // SHORT, SHORT)), 1), (SPAN,)) - own
            sum_r = ()
            for k in tl.static_range(STEPS):
                until += delta_r[k]
                sum_r = sum_r + (until,)
            sums, totals = sums + (sum_r,), totals + (_sum_lanes(own, SHORT),)
        # The gradients that another lane stored for the next tile.
        tl.debug_barrier()
        for n in range(state):
            C_n = _load_steps(C + n * length, first, length, lane >= 0, REVERSE)
            for r in tl.static_range(ROWS):
                row = _row(channel, r, LONG)
                after = adjoints + ((tile + 1) * (LONG // SHORT) * state + n) * dim + row
                carry = tl.load(after, mask=(row < dim) & (walked > 0), other=0.0)
                exponent = tl.load(A + row * state + n, mask=row < dim, other=0.0) * LOG2E
                g = tl.zeros((SPAN,), tl.float32)
                for k in tl.static_range(STEPS):
                    g = tl.fma(tl.exp2(sums[r][k] * exponent), grads[r][k] * C_n[k], g)
                g = _sum_lanes(g, SHORT)
                decay = tl.exp2(totals[r] * exponent)
                g = tl.where(lane >= LONG - SHORT, tl.fma(decay, carry, g), g)
                for i in tl.static_range(LOG_SHORT, LOG_LONG):
                    source = tl.minimum(later + (1 << i), LONG - 1)
                    g = tl.where(lane < LONG - (1 << i), tl.fma(decay, _from_lane(g, source, LONG), g), g)
                    decay = tl.where(lane < LONG - (1 << i), decay * _from_lane(decay, source, LONG), decay)
                keep = (row < dim) & (lane % SHORT == 0) & (slot < slots)
                tl.store(adjoints + (slot * state + n) * dim + row, g, mask=keep)


@triton.jit(do_not_specialize=['quarter', 'dim', 'state', 'slots', 'groups', 'backwards'])
def adjoint_kernel(
    grad, delta, A, C, bias, adjoints, quarter, dim, state, slots, groups, backwards,
    SOFTPLUS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    length = quarter * 4
    channel = tl.program_id(0) * (SPAN // LONG) * ROWS
    pair = tl.program_id(1).to(tl.int64)
    group = tl.program_id(1) % groups
    grad += pair * dim * length
    delta += pair * dim * length
    A += group * dim * state
    C += pair * state * length
    if bias is not None:
        bias += group * dim
    adjoints += pair * slots * state * dim
    if group < groups - backwards:
        _adjoint_tiles(grad, delta, A, C, bias, adjoints, length, dim, state, slots, channel, SOFTPLUS, ROWS, False)
    else:
        _adjoint_tiles(grad, delta, A, C, bias, adjoints, length, dim, state, slots, channel, SOFTPLUS, ROWS, True)


@triton.jit
def _backward_state(
    grads, deltas, inputs, total, A, B, C, before, after, by_input, by_delta, by_B, by_C,
):  # fmt: skip
    """Gradients through one state of one row; `by_…` are tuples of steps, added to and returned.

    Args:
        grads: Gradients of y.
        deltas: After bias and softplus.
        inputs: delta * u.
        total: Sum of the deltas of a lane.
        A: For this state.
        B: For this state.
        C: For this state.
        before: The state before the tile.
        after: The gradient of the state after it.
        by_input: Gradient of delta * u.
        by_delta: Gradient of delta through the decay.
        by_B: Not yet summed over the channels.
        by_C: Not yet summed over the channels.

        Returns:
            by_input, by_delta, by_B, by_C, and the gradient of A, not yet summed over the lanes.
    """
    decays, decay, h = _decay(deltas, inputs, total, A * LOG2E, B)
    g = tl.zeros((SPAN,), tl.float32)
    for j in tl.static_range(STEPS):
        g = decays[STEPS - 1 - j] * tl.fma(grads[STEPS - 1 - j], C[STEPS - 1 - j], g)
    h, _ = _enter_lanes(decay, h, before, SHORT, LOG_SHORT, False)
    g, _ = _enter_lanes(decay, g, after, SHORT, LOG_SHORT, True)
    decayed, new_C = (), ()
    for k in tl.static_range(STEPS):
        decayed = decayed + (decays[k] * h,)
        h = tl.fma(inputs[k], B[k], decayed[k])
        new_C = new_C + (tl.fma(grads[k], h, by_C[k]),)
    by_A = tl.zeros((SPAN,), tl.float32)
    new_input, new_delta, new_B = (), (), ()
    for j in tl.static_range(STEPS):
        g = tl.fma(grads[STEPS - 1 - j], C[STEPS - 1 - j], g)
        by_exponent = g * decayed[STEPS - 1 - j]
        new_input = (tl.fma(g, B[STEPS - 1 - j], by_input[STEPS - 1 - j]),) + new_input
        new_delta = (tl.fma(by_exponent, A, by_delta[STEPS - 1 - j]),) + new_delta
        new_B = (tl.fma(g, inputs[STEPS - 1 - j], by_B[STEPS - 1 - j]),) + new_B
        by_A = tl.fma(by_exponent, deltas[STEPS - 1 - j], by_A)
        g = g * decays[STEPS - 1 - j]
    return new_input, new_delta, new_B, new_C, by_A


@triton.jit
def _zeros():
    steps = ()
    for _ in tl.static_range(STEPS):
        steps = steps + (tl.zeros((SPAN,), tl.float32),)
    return steps


@triton.jit
def _add_over_channels(pointer, start, length, steps, REVERSE: tl.constexpr):
    """Adds the sum of `steps` over the channels to rows that no other program writes to; `start` is (SHORT).

    An atomic addition, since it does not wait for the old value; as long as all of them come from one program, their
    order is deterministic.
    """
    for piece in tl.static_range(STEPS // 4):
        vector = tl.sum(tl.reshape(_piece(steps, piece, REVERSE), (SPAN // SHORT, SHORT, 4)), 0)
        here = start + 4 * piece
        place = (pointer + here)[:, None] + tl.arange(0, 4)[None, :]
        tl.atomic_add(place, vector, mask=((here >= 0) & (here < length))[:, None], sem='relaxed')


@triton.jit
def _backward_leave(
    grads, deltas, by_input, by_delta, u, delta, D, bias, to_u, to_delta, to_D, to_bias, row, dim, first, length,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Converts the gradients of one row, of delta * u and through the decay, into those of the inputs."""
    offset = row.to(tl.int64) * length
    raw = _load_steps(delta + offset, first, length, row < dim, REVERSE)
    u_r = _load_steps(u + offset, first, length, row < dim, REVERSE)
    shift = _load_channel(bias, row, row < dim)
    skip = _load_channel(D, row, row < dim)
    by_u, by_raw = (), ()
    by_D = tl.zeros((SPAN,), tl.float32)
    by_bias = tl.zeros((SPAN,), tl.float32)
    for k in tl.static_range(STEPS):
        by_step = tl.fma(by_input[k], u_r[k], by_delta[k])
        if SOFTPLUS:
            by_step = by_step * _sigmoid(raw[k] + shift)
        by_u = by_u + (tl.fma(by_input[k], deltas[k], grads[k] * skip),)
        by_raw = by_raw + (by_step,)
        by_D = tl.fma(grads[k], u_r[k], by_D)
        by_bias += tl.where(_is_step(first, length, k, REVERSE), by_step, 0.0)
    _store_steps(to_u + offset, first, length, row < dim, by_u, REVERSE)
    _store_steps(to_delta + offset, first, length, row < dim, by_raw, REVERSE)
    tl.store(to_D + row, _sum_lanes(by_D, SHORT), mask=(row < dim) & (_lane(SHORT) == 0))
    tl.store(to_bias + row, _sum_lanes(by_bias, SHORT), mask=(row < dim) & (_lane(SHORT) == 0))


@triton.jit
def _backward_tile(
    grad, u, delta, A, B, C, D, bias, states, adjoints, to_u, to_delta, to_A, to_B, to_C, to_D, to_bias,
    length, dim, state, tile, slots, begin, end, SOFTPLUS: tl.constexpr, ROWS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """One tile of the channels from `begin` to `end`.

    Pointers are at the start of the (batch, group); `states`, `adjoints`, `to_A`, `to_D`, `to_bias` at the tile.
    """
    first = _first_step(tile, length, SHORT, REVERSE)
    # Channels of which there is a tile before and one after.
    before_dim = tl.where(tile > 0, dim, 0)
    after_dim = tl.where(tile + 1 < slots, dim, 0)
    # The same for all channels.
    start = tl.min(tl.reshape(first, (SPAN // SHORT, SHORT)), 0)
    for channel in range(begin, end, SPAN // SHORT * ROWS):
        grads, deltas, inputs, totals, by_inputs, by_deltas = (), (), (), (), (), ()
        for r in tl.static_range(ROWS):
            row = _row(channel, r, SHORT)
            delta_r, total = _load_delta(delta, bias, row, first, length, row < dim, SOFTPLUS, REVERSE)
            offset = row.to(tl.int64) * length
            grads = grads + (_load_steps(grad + offset, first, length, row < dim, REVERSE),)
            u_r = _load_steps(u + offset, first, length, row < dim, REVERSE)
            input_r = ()
            for k in tl.static_range(STEPS):
                input_r = input_r + (delta_r[k] * u_r[k],)
            deltas, inputs, totals = deltas + (delta_r,), inputs + (input_r,), totals + (total,)
            by_inputs, by_deltas = by_inputs + (_zeros(),), by_deltas + (_zeros(),)
        for n in range(state):
            B_n = _load_steps(B + n * length, first, length, _lane(SHORT) >= 0, REVERSE)
            C_n = _load_steps(C + n * length, first, length, _lane(SHORT) >= 0, REVERSE)
            by_B, by_C = _zeros(), _zeros()
            new_inputs, new_deltas = (), ()
            for r in tl.static_range(ROWS):
                row = _row(channel, r, SHORT)
                before = tl.load(states + n * dim + row, mask=row < before_dim, other=0.0)
                after = tl.load(adjoints + (state + n) * dim + row, mask=row < after_dim, other=0.0)
                A_n = tl.load(A + row * state + n, mask=row < dim, other=0.0)
                new_input, new_delta, by_B, by_C, by_A = _backward_state(
                    grads[r], deltas[r], inputs[r], totals[r], A_n, B_n, C_n, before, after,
                    by_inputs[r], by_deltas[r], by_B, by_C,
                )  # fmt: skip
                new_inputs, new_deltas = new_inputs + (new_input,), new_deltas + (new_delta,)
                tl.store(to_A + n * dim + row, _sum_lanes(by_A, SHORT), mask=(row < dim) & (_lane(SHORT) == 0))
            by_inputs, by_deltas = new_inputs, new_deltas
            _add_over_channels(to_B + n * length, start, length, by_B, REVERSE)
            _add_over_channels(to_C + n * length, start, length, by_C, REVERSE)
        for r in tl.static_range(ROWS):
            _backward_leave(
                grads[r], deltas[r], by_inputs[r], by_deltas[r], u, delta, D, bias, to_u, to_delta, to_D, to_bias,
                _row(channel, r, SHORT), dim, first, length, SOFTPLUS, REVERSE,
            )  # fmt: skip


@triton.jit(do_not_specialize=['quarter', 'dim', 'state', 'slots', 'groups', 'u_groups', 'backwards', 'pairs', 'part'])
def backward_kernel(
    grad, u, delta, A, B, C, D, bias, states, adjoints, to_u, to_delta, to_A, to_B, to_C, to_D, to_bias,
    quarter, dim, state, slots, groups, u_groups, backwards, pairs, part,
    SOFTPLUS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    length = quarter * 4
    tile = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    group = tl.program_id(1) % groups
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, dim)
    u += (pair // groups * u_groups + group % u_groups) * dim * length
    grad += pair * dim * length
    delta += pair * dim * length
    to_u += pair * dim * length
    to_delta += pair * dim * length
    A += group * dim * state
    B += pair * state * length
    C += pair * state * length
    to_B += (tl.program_id(2) * pairs + pair) * state * length
    to_C += (tl.program_id(2) * pairs + pair) * state * length
    if D is not None:
        D += group * dim
    if bias is not None:
        bias += group * dim
    states += (pair * slots + tile) * state * dim
    adjoints += (pair * slots + tile) * state * dim
    to_A += (pair * slots + tile) * state * dim
    to_D += (pair * slots + tile) * dim
    to_bias += (pair * slots + tile) * dim
    if group < groups - backwards:
        _backward_tile(
            grad, u, delta, A, B, C, D, bias, states, adjoints, to_u, to_delta, to_A, to_B, to_C, to_D, to_bias,
            length, dim, state, tile, slots, begin, end, SOFTPLUS, ROWS, False,
        )  # fmt: skip
    else:
        _backward_tile(
            grad, u, delta, A, B, C, D, bias, states, adjoints, to_u, to_delta, to_A, to_B, to_C, to_D, to_bias,
            length, dim, state, tile, slots, begin, end, SOFTPLUS, ROWS, True,
        )  # fmt: skip
