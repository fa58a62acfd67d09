"""What an answer proves, in words: from market, plan and prices alone, whoever found them."""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .acflow import MOST_LOOPS, Safety, check
from .arguments import of_tables
from .clock import Clock, hour_name, in_hour
from .each import for_each
from .fields import naming
from .market import Market, bus_name, cast, line_name
from .model import Plan, Rows, families
from .names import Owners, called, owners, unphased
from .one_way import Ways, metered, ways
from .optimality import Residuals, residuals
from .record import Record
from .runner import concrete, held_here, hosted, jnp, wide
from .scales import Scales, cap_sizes, measure, scales
from .succession import Before
from .tables import has_caps
from .validation import gate

_FINE = 1e-6  # infeasibility up to which limits are told to be kept: the tolerance in float64


class CapSizes(Record):
    """What caps are called, and what is much of each, to tell amounts of them."""

    level: Float[Array, " M"]  # in units of each
    step: Float[Array, " M"]
    names: tuple[str, ...] = naming("name of each cap")
    units: tuple[str, ...] = naming("unit of each cap's level")


class Certificate(Record):
    """How good an answer is, recomputed in float64 from market, plan and prices.

    `error` is the relative KKT error (model.md: Yardstick), the largest of
    `residuals.infeasibility`, `.regret` and `.dual`. No prosumer gains more than `residuals.gap`
    EUR by deviating. `ac` is what an AC power flow of the plan finds (None without a grid). Prints
    in kW and EUR.
    """

    residuals: Residuals
    scales: Scales
    ac: Safety | None
    owners: Owners | None
    hour_length: Float[Array, " H"]  # h
    clock: Clock | None
    names: tuple[str, ...] = naming("name of each bus, or nothing")
    line_names: tuple[str, ...] = naming("name of each line, or nothing")
    hours: int = eqx.field(static=True)
    squared: bool = eqx.field(static=True)  # whether voltages are squared, so in pu^2
    before: Before = eqx.field(default=None, static=True)  # which step each begins from
    ways: Ways | None = None  # what goes both ways at once
    caps: CapSizes | None = None

    @property
    def error(self) -> Any:
        """The relative KKT error: 0 at an equilibrium."""
        return self.residuals.error

    @hosted
    def __str__(self) -> str:
        error = self.residuals.error
        if isinstance(error, Tracer) or np.ndim(error):
            return f"Certificate of a batch of shape {error.shape}"
        return "\n".join([*self.sentences(), *([] if self.ac is None else [self._ac(self.ac)])])

    @hosted
    def sentences(self) -> list[str]:
        """The certificate in words, one statement a line, without the AC power flow."""
        found, gap = self.residuals, np.asarray(self.residuals.gap)
        return [
            f"relative KKT error {float(found.error):.1e}: infeasibility "
            f"{float(found.infeasibility):.1e}, regret {float(found.regret):.1e}, "
            f"prices {float(found.dual):.1e}",
            f"no prosumer gains more than {gap.max(initial=0.0):.2g} EUR by deviating; all "
            f"together {gap.sum():.2g} EUR, the operator {float(found.operator_gap):.2g} EUR, "
            f"of a gross bill of {float(self.scales.bill):.2f} EUR",
            f"largest violation of a constraint: {self.worst()}",
            self._worst_off(),
            *self._untold(),
            *([] if self.ways is None else self.ways.sentences(partial(in_hour, self), self._name)),
        ]

    def _ac(self, found: Safety) -> str:
        """What the AC power flow found."""
        if not bool(found.examined):
            return (
                "AC-safe: not examined; an AC power flow takes grids in which a path leads from a "
                f"feeder bus to each bus, with impedance in each of at most {MOST_LOOPS} loops"
            )
        of = "the balanced equivalent" if found.unbalance is None else "three phases"
        if not bool(found.converged):
            when = hour_name(self, int(found.residual_place))
            return (
                f"NOT AC-safe: an AC power flow of {of} does not converge; "
                f"{when} asks more of the lines than they carry"
            )

        def place(flat: Any, each: str) -> str:
            row, hour = divmod(int(flat), self.hours)
            return f"{self._name(each, row)}, {hour_name(self, hour)}"

        unequal, most = "", found.unbalance
        if most is not None:
            (bus, at), (line, then) = (
                divmod(int(flat), self.hours) for flat in (most.factor_place, most.neutral_place)
            )
            unequal = (
                f", unbalance up to {100 * float(most.factor):.2f} % (bus "
                f"{unphased(bus_name(self, bus))}, {hour_name(self, at)})"
            )
            if bool(most.returns):
                unequal += (
                    f", neutrals up to {float(most.neutral):.1f} kVA (line "
                    f"{unphased(line_name(self, line))}, {hour_name(self, then)})"
                )
        return (
            f"{'AC-safe' if bool(found.safe) else 'NOT AC-safe'} (AC power flow of "
            f"{of}): {float(found.lowest):.4f} pu ({place(found.lowest_place, 'bus')}) to "
            f"{float(found.highest):.4f} pu ({place(found.highest_place, 'bus')}), lines up to "
            f"{100 * float(found.loading):.1f} % by current "
            f"({place(found.loading_place, 'line')}), losses {float(found.losses):.1f} kWh"
            f"{unequal}"
        )

    @hosted
    def worst(self) -> str:
        """The row or bound that is violated most, measured by its scale, with its place."""
        return next(iter(self.violations()), "none")

    @hosted
    def violations(self) -> list[str]:
        """Every family of rows and bounds that is violated, where it is most, the worst first."""
        found = self.residuals
        entries = [(float(found.rating / self.scales.total), self._overload())]
        for prefix, amounts, places in (
            ("", found.rows, found.row_places),
            ("bounds on the ", found.bounds, found.bound_places),
        ):
            for name, field in families(amounts).items():
                amount, size = float(getattr(amounts, name)), measure(field)
                scale = 1.0 if size is None else float(getattr(self.scales, size))
                row, hour = divmod(int(getattr(places, name)), self.hours)
                named = len(field.axes) > 1 and amount > 0
                where = f" of {self._name(field.row, row)}" if named else ""
                unit = "pu^2" if field.unit == "pu" and self.squared else field.unit
                if field.row == "cap" and self.caps is not None and amount > 0:
                    size = self.caps.level if name == "level" else self.caps.step
                    amount, unit = amount * float(size[row]), self.caps.units[row]
                    scale = float(size[row])
                words = f"{prefix}{field.means}{where}"
                sentence = f"{amount:.1e} {unit}, {words}, {hour_name(self, hour)}"
                entries.append((amount / scale, sentence))
        entries.sort(key=lambda entry: -entry[0])
        return [sentence for share, sentence in entries if share > 0]

    def _untold(self) -> list[str]:
        """What the numbers cannot tell: limits missed by less, and which of several equilibria."""
        found, said = self.residuals, []
        if float(found.infeasibility) > _FINE:
            amount = float(found.infeasibility * self.scales.total)
            said.append(
                f"limits are kept to {amount:.1e} kW in all: ones that are out of reach by less "
                "look the same here; float64 and a smaller tol tell"
            )
        if loose := int(found.loose):
            said.append(
                f"total import need not be unique in {loose} hour{'s' * (loose > 1)} of a flat "
                'tariff; select(market, "import") levels it'
            )
        return said

    def _worst_off(self) -> str:
        """What is guaranteed to the prosumer that fares worst by its own size."""
        own, gap = jax.tree.map(np.asarray, (self.residuals.own, self.residuals.gap))
        if not own.share.size:
            return "there are no prosumers"
        i = int(own.share.argmax())
        return (
            f"by its own size {self._name('prosumer', i)} ({own.size[i]:.3g} kW) fares worst: "
            f"within {own.missed[i]:.1e} kW, {own.content[i]:.1e} kWh and "
            f"{own.price[i]:.1e} EUR/kWh, {own.share[i]:.1e} relative; it gains at most "
            f"{gap[i]:.1e} EUR of a bill of {own.bill[i]:.2g} EUR"
        )

    def _overload(self) -> str:
        line, hour = divmod(int(self.residuals.rating_place), self.hours)
        return (
            f"{float(self.residuals.rating):.1e} kVA above the rating of line "
            f"{line_name(self, line)}, {hour_name(self, hour)}"
        )

    def _name(self, each: str, row: int) -> str:
        """What people call a row: `bus 742`, `battery 4 (Miller)`."""
        if each == "cap" and self.caps is not None:
            return f"cap {self.caps.names[row]!r}"
        return called(self.owners, self, each, row)


@of_tables
def certify(market: Market, plan: Plan, prices: Rows) -> Certificate:
    """Judge a plan and prices: the yardstick for every answer, in float64 (model.md: Yardstick).

    Traceable; prices may be on any gauge. Of a batch the certificate has its leading axis. Where
    JAX is in 32-bit mode the finished numbers are rounded to float32.
    """
    gate(market, "certify", batch=True)
    return _certify(market, plan, prices)


@for_each
def _certify(market: Market, plan: Plan, prices: Rows) -> Certificate:
    if concrete((market, plan)) and held_here(plan.imports):  # all is in this process
        market = metered(market, plan)
    found = replace(
        judge(market, plan, prices),
        ac=check(market, plan),
        owners=owners(market),
        ways=ways(market, plan, prices),
    )
    return cast(found, jax.dtypes.canonicalize_dtype(float))


def judge(market: Market, plan: Plan, prices: Rows) -> Certificate:
    """`certify` without the AC power flow, its numbers in float64 whatever JAX's default is."""
    with wide():
        found = residuals(market, plan, prices)
        size = scales(*cast((market, plan), jnp.float64))
    return _certificate(market, found, size)


def _certificate(market: Market, found: Residuals, size: Scales) -> Certificate:
    with wide():
        step = cast(market.hour_length, jnp.float64)
    return Certificate(
        residuals=found,
        scales=size,
        ac=None,
        owners=None,
        hour_length=step,
        clock=market.clock,
        names=market.grid.names,
        line_names=market.grid.line_names,
        caps=_cap_sizes(market) if has_caps(market) else None,
        hours=market.prosumers.load.shape[-1],
        squared=market.grid.model.squared,
        before=market.before,
    )


def _cap_sizes(market: Market) -> CapSizes:
    with wide():
        step, level = cap_sizes(cast(market, jnp.float64))
    return CapSizes(level[:, 0], step[:, 0], market.caps.names, market.caps.units)
