"""The lifted chain on sparse quadratic energies: one replica after another, O(degree) work a flip."""

from typing import Any, NamedTuple

import numpy as np

from genmodels.compiled.counter import hash64
from genmodels.compiled.loop import Loop, compiled, inlined
from genmodels.couplings import Couplings

_REPLICA = np.uint64(40)  # bits of a replica's own counter
_MOST = 1024  # units of field up to which a table is worth its making


@Loop
def integers(k0: Any, k1: Any, n_replicas: Any, place: Any) -> Any:
    """Return the 64 random bits at `place` in the counter of every replica  # (replica,), uint64."""
    drawn = np.empty(n_replicas, dtype=np.uint64)
    for replica in range(n_replicas):
        drawn[replica] = hash64(k0, k1, (np.uint64(replica) << _REPLICA) + np.uint64(place))
    return drawn


@inlined
def _rate_of(cost: Any, heat_bath: Any) -> Any:
    """Return the probability that a flip is accepted that raises βE + E_0 by `cost`."""
    if heat_bath:
        return 1.0 / (1.0 + np.exp(cost))
    return 1.0 if cost <= 0.0 else np.exp(-cost)


@inlined
def _rate(i: Any, x: Any, field: Any, beta: Any, base: Any, heat_bath: Any, table: Any) -> Any:
    """Return the probability that a flip of spin i is accepted: looked up where there is a table."""
    if len(table):
        return table[np.uint64(np.int64(x[i] * field[i]) + (len(table) >> 1))]
    return _rate_of(2.0 * x[i] * (beta * field[i] + base[i]), heat_bath)


@inlined
def _coin(bits: Any, p: Any) -> Any:
    return (bits >> np.uint64(11)) * 2.0**-53 < p


@inlined
def _pick(bits: Any, n: Any) -> Any:
    return np.int64(((bits >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@compiled
def _measure(
    x: Any, beta: Any, starts: Any, columns: Any, J: Any, h: Any, base: Any, heat_bath: Any, table: Any,
    field: Any, rate: Any, out: Any
) -> None:  # fmt: skip
    """Fill in fields and rates, and out[0] and out[1]: the sums of rates of the spins down and up."""
    out[:] = 0.0
    for i in range(len(x)):
        field[i] = h[i]
        for k in range(starts[i], starts[i + 1]):
            field[i] += J[k] * x[columns[k]]
        rate[i] = _rate(i, x, field, beta, base, heat_bath, table)
        out[(x[i] + 1) >> 1] += rate[i]


@inlined
def _flip(
    i: Any, x: Any, beta: Any, starts: Any, columns: Any, J: Any, base: Any, heat_bath: Any, table: Any,
    field: Any, rate: Any, out: Any
) -> None:  # fmt: skip
    """Flip spin i and keep fields, rates and their sums up to date."""
    out[(x[i] + 1) >> 1] -= rate[i]
    x[i] = -x[i]
    rate[i] = _rate(i, x, field, beta, base, heat_bath, table)
    out[(x[i] + 1) >> 1] += rate[i]
    both, difference, change = 0.0, 0.0, 2.0 * x[i]
    for k in range(np.uint64(starts[i]), np.uint64(starts[i + 1])):
        j = np.uint64(columns[k])  # unsigned: never counted from the end
        field[j] += change * J[k]
        more = _rate(j, x, field, beta, base, heat_bath, table) - rate[j]
        rate[j] += more
        both += more
        difference += x[j] * more
    # Sums in registers: to wait for out[] itself would take most of the time.
    out[0] += 0.5 * (both - difference)
    out[1] += 0.5 * (both + difference)


@compiled
def _sweep(
    x: Any, direction: Any, place: Any, beta: Any, starts: Any, columns: Any, J: Any, h: Any, base: Any,
    heat_bath: Any, n_steps: Any, k0: Any, k1: Any, table: Any, field: Any, rate: Any, out: Any
) -> Any:  # fmt: skip
    """Advance one replica from `place` in its counter on; return its direction and the number of flips."""
    n, n_flips = len(x), 0
    _measure(x, beta, starts, columns, J, h, base, heat_bath, table, field, rate, out)
    for _ in range(n_steps):
        i = _pick(hash64(k0, k1, place), n)
        if x[i] != direction and _coin(hash64(k0, k1, place + np.uint64(1)), rate[i]):
            _flip(i, x, beta, starts, columns, J, base, heat_bath, table, field, rate, out)
            n_flips += 1
        else:
            ahead = (1 - direction) >> 1  # where the spins that may flip are counted
            excess, last = out[1 - ahead] - out[ahead], place + np.uint64(2)
            if excess > 0.0 and _coin(hash64(k0, k1, last), excess / (n - out[ahead])):
                direction = -direction
        place += np.uint64(3)
    return direction, n_flips


@Loop
def sweeps(
    x: Any, direction: Any, starts: Any, columns: Any, J: Any, h: Any, base: Any, reach: Any, unit: Any,
    betas: Any, n_steps: Any, heat_bath: Any, k0: Any, k1: Any
) -> Any:  # fmt: skip
    """Advance every replica by `n_steps` steps per row of `betas`, in place; return the number of flips.

    Every step takes three places of the replica's counter, whether it uses them or not: the site, whether it
    flips, whether the direction turns. Sums are taken afresh in every row: rounding does not pile up.

    `x` are spins (replica, site), int8; `direction` is ε (replica,), int8; from `starts` to `unit` the
    arguments are those of a `Plan`; `betas` are (sweep, replica); rates are 1/(1 + e^c) if `heat_bath`, else
    min(1, e^{−c}); k0 and k1 are the stream's key.
    """
    n, n_flips = x.shape[1], 0
    field, rate, out, table = np.empty(n), np.empty(n), np.empty(2), np.empty(max(0, 2 * reach + 1))
    for replica in range(len(x)):
        known = np.nan
        for sweep in range(len(betas)):
            beta = betas[sweep, replica] * unit
            if beta != known:
                known = beta
                for k in range(len(table)):
                    table[k] = _rate_of(2.0 * beta * (k - reach), heat_bath)
            place = (np.uint64(replica) << _REPLICA) + np.uint64(3 * sweep * n_steps)
            direction[replica], flips = _sweep(
                x[replica], direction[replica], place, beta, starts, columns, J, h, base, heat_bath,
                n_steps, k0, k1, table, field, rate, out
            )  # fmt: skip
            n_flips += flips
    return n_flips


class Plan(NamedTuple):
    """A quadratic model as `sweeps` takes it."""

    starts: np.ndarray  # the first edge of each site, `Couplings.neighbours`  # (site + 1,)
    columns: np.ndarray  # neighbours  # (2 · edge,)
    J: np.ndarray  # their couplings, in units  # (2 · edge,)
    h: np.ndarray  # fields that β multiplies, in units  # (site,)
    base: np.ndarray  # fields that it does not, in nats  # (site,)
    reach: int  # the largest field, if all are whole numbers of units, for a table of rates; else −1
    unit: float  # in nats at β = 1


def plan(couplings: Couplings) -> Plan:
    """Return the arrays of a model, with a table's reach where its fields take few values."""
    starts, columns, J = couplings.neighbours()
    h, base = couplings.h, couplings.base
    sizes = np.abs(np.concatenate([J, h]))
    unit = float(sizes[sizes > 0.0].min(initial=np.inf))
    whole = np.isfinite(sizes).all() and np.isfinite(unit) and (sizes == unit * np.rint(sizes / unit)).all()
    if not whole or base.any():
        return Plan(starts, columns, J, h, base, -1, 1.0)
    units, fields = np.rint(J / unit), np.rint(h / unit)
    rows = np.repeat(np.arange(couplings.n_sites), np.diff(starts))
    reach = int((np.bincount(rows, np.abs(units), minlength=couplings.n_sites) + np.abs(fields)).max())
    if reach > _MOST:
        return Plan(starts, columns, J, h, base, -1, 1.0)
    return Plan(starts, columns, units, fields, base, reach, unit)
