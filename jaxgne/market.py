"""The market as data: who takes part, with which devices, on which grid, at which tariff.

Every numeric field is an array, so a market is a pytree that `jax.jit`, `jax.vmap` and `jax.grad`
go through. Units are fixed: kW, kvar, kVA, kWh, EUR, EUR/kWh, hours, radians, voltages per unit.

Sizes: `N` prosumers, `H` hours, `G` generators, `K` buffers, `E` trading pairs, `B` buses,
`L` lines, `F` feeder (slack) buses.
"""

from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .clock import Clock
from .describe import describe

GridModel = Literal["copperplate", "paper", "lindistflow"]


def _float(value: Any) -> Array:
    """`value` as an array: floating dtypes are kept, everything else takes JAX's default."""
    dtype = getattr(value, "dtype", None)
    floating = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    return jnp.asarray(value, jax.dtypes.canonicalize_dtype(dtype if floating else float))


def _int(value: Any) -> Array:
    return jnp.asarray(value, jnp.int32)


def _hourly(value: Any, shape: tuple[int, ...]) -> Array:
    """`value` per row and hour: a scalar, one number a row, or the full `(rows, H)`."""
    array = _float(value)
    if array.ndim == 1 and len(shape) == 2 and array.shape[0] == shape[0]:
        array = array[:, None]
    if array.shape == shape:
        return array
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError as error:
        raise ValueError(
            f"an array of shape {array.shape} does not fit the {shape[0]} rows and {shape[-1]} "
            f"hours of its table; give a scalar, one number a row, or shape {shape}."
        ) from error


def cast(tree: Any, dtype: Any) -> Any:
    """`tree` with every floating array in `dtype`, NumPy's too as JAX arrays."""

    def converted(a: Any) -> Any:
        # looking is faster than converting; a weak type would compile again
        if isinstance(a, jax.Array) and a.dtype == dtype and not a.weak_type:
            return a
        return jnp.asarray(a, dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(converted, tree)


class Prosumers(eqx.Module):
    """Consumers who may also produce, store and trade, one row each.

    `load` is net of the prosumer's own renewable generation, so it may be negative; `reactive` is
    that of the gross load. `import_max` may be infinite; `export_max` and `curtail_max` are 0
    where a prosumer may not sell to the main grid or curtail.
    """

    bus: Int[Array, " N"]  # bus index
    load: Float[Array, "N H"]  # kW
    reactive: Float[Array, "N H"]  # kvar
    import_max: Float[Array, "N H"]  # kW
    export_max: Float[Array, "N H"]  # kW
    curtail_max: Float[Array, "N H"]  # kW

    def __init__(
        self,
        bus: Any,
        load: Any,
        reactive: Any = 0.0,
        *,
        import_max: Any = np.inf,
        export_max: Any = 0.0,
        curtail_max: Any = 0.0,
    ):
        self.bus = _int(bus)
        self.load = _float(load)
        if self.load.ndim != 2:
            raise ValueError(
                f"Prosumers.load: expected shape (prosumers, hours), got {self.load.shape}."
            )
        self.reactive = _hourly(reactive, self.load.shape)
        self.import_max = _hourly(import_max, self.load.shape)
        self.export_max = _hourly(export_max, self.load.shape)
        self.curtail_max = _hourly(curtail_max, self.load.shape)


class Generators(eqx.Module):
    """Dispatchable units; cost `quadratic p^2 + linear p` per hour (no factor 1/2)."""

    owner: Int[Array, " G"]  # prosumer index
    power_min: Float[Array, "G H"]  # kW
    power_max: Float[Array, "G H"]  # kW
    quadratic: Float[Array, " G"]  # EUR/kW^2h
    linear: Float[Array, " G"]  # EUR/kWh

    def __init__(
        self,
        owner: Any,
        power_max: Any,
        *,
        hours: int,
        power_min: Any = 0.0,
        quadratic: Any = 0.0,
        linear: Any = 0.0,
    ):
        self.owner = _int(owner)
        count = self.owner.shape[0]
        self.power_max = _hourly(power_max, (count, hours))
        self.power_min = _hourly(power_min, (count, hours))
        self.quadratic = _hourly(quadratic, (count,))
        self.linear = _hourly(linear, (count,))


class Buffers(eqx.Module):
    """Storage: batteries, and whatever moves energy in time (cars, tanks, buildings).

    Content at the end of hour h, starting from `energy_start` (MODEL: x_{h+1} = a x_h + ...):

        x_h = retention x_{h-1} + Ts (charge_efficiency p_ch - p_ds / discharge_efficiency) - drain

    with `energy_min <= x <= energy_max`; cost `quadratic (p_ch^2 + p_ds^2) + linear (p_ch + p_ds)`.
    Each kWh more after the last hour than at the start is worth `final_value` to its owner.
    """

    owner: Int[Array, " K"]  # prosumer index
    charge_max: Float[Array, "K H"]  # kW
    discharge_max: Float[Array, "K H"]  # kW
    energy_min: Float[Array, "K H"]  # kWh, at the end of the hour
    energy_max: Float[Array, "K H"]  # kWh, at the end of the hour
    energy_start: Float[Array, " K"]  # kWh
    drain: Float[Array, "K H"]  # kWh per step
    retention: Float[Array, " K"]  # share kept per step
    charge_efficiency: Float[Array, " K"]
    discharge_efficiency: Float[Array, " K"]
    quadratic: Float[Array, " K"]  # EUR/kW^2h
    linear: Float[Array, " K"]  # EUR/kWh
    final_value: Float[Array, " K"]  # EUR/kWh

    def __init__(
        self,
        owner: Any,
        charge_max: Any,
        discharge_max: Any,
        energy_max: Any,
        energy_start: Any,
        *,
        hours: int,
        energy_min: Any = 0.0,
        drain: Any = 0.0,
        retention: Any = 1.0,
        charge_efficiency: Any = 1.0,
        discharge_efficiency: Any = 1.0,
        quadratic: Any = 0.0,
        linear: Any = 0.0,
        final_value: Any = 0.0,
    ):
        self.owner = _int(owner)
        count = self.owner.shape[0]
        self.charge_max = _hourly(charge_max, (count, hours))
        self.discharge_max = _hourly(discharge_max, (count, hours))
        self.energy_min = _hourly(energy_min, (count, hours))
        self.energy_max = _hourly(energy_max, (count, hours))
        self.energy_start = _hourly(energy_start, (count,))
        self.drain = _hourly(drain, (count, hours))
        self.retention = _hourly(retention, (count,))
        self.charge_efficiency = _hourly(charge_efficiency, (count,))
        self.discharge_efficiency = _hourly(discharge_efficiency, (count,))
        self.quadratic = _hourly(quadratic, (count,))
        self.linear = _hourly(linear, (count,))
        self.final_value = _hourly(final_value, (count,))


class Trading(eqx.Module):
    """Pairs that may trade, each once: a trade is positive when `buyer` buys from `seller`.

    `fee_buyer` and `fee_seller` are what each side reckons with (c_tr of MODEL section 3),
    `charge` is the network's tariff for the trade, paid by both sides (c_ta). `quadratic` is a cost
    `quadratic t^2` per hour to each side; 0 in the paper.
    """

    buyer: Int[Array, " E"]  # prosumer index
    seller: Int[Array, " E"]  # prosumer index
    limit: Float[Array, " E"]  # kW, either direction
    fee_buyer: Float[Array, " E"]  # EUR/kWh
    fee_seller: Float[Array, " E"]  # EUR/kWh
    charge: Float[Array, " E"]  # EUR/kWh
    quadratic: Float[Array, " E"]  # EUR/kW^2h

    def __init__(
        self,
        buyer: Any,
        seller: Any,
        limit: Any,
        *,
        fee_buyer: Any = 0.0,
        fee_seller: Any = 0.0,
        charge: Any = 0.0,
        quadratic: Any = 0.0,
    ):
        self.buyer = _int(buyer)
        self.seller = _int(seller)
        count = (self.buyer.shape[0],)
        self.limit = _hourly(limit, count)
        self.fee_buyer = _hourly(fee_buyer, count)
        self.fee_seller = _hourly(fee_seller, count)
        self.charge = _hourly(charge, count)
        self.quadratic = _hourly(quadratic, count)


class Grid(eqx.Module):
    """Buses and lines, the passive load at each bus, and which physics links them.

    `model` chooses the rows (static): `copperplate` has no network, `paper` is the linear model of
    the paper (with `reactive_balance` also reactive power balances at each bus), `lindistflow` is
    for radial feeders: lines then point away from the feeder bus, parents before children.
    Lines carry power from `source` to `target`; `rating` may be infinite. Impedances are per unit
    per kW: ohms divided by 1000 kV^2 (kV line to line). Inverters and compensators at a bus may
    inject or draw up to `compensation_max` of reactive power, where the model balances that (none
    at feeder buses, where the main grid does); how much is for the operator to choose, and
    `devices.inverter` makes it depend on active power. The main grid holds each feeder bus at
    `feeder_voltage`, whatever that bus's own limits are.
    """

    source: Int[Array, " L"]  # bus index
    target: Int[Array, " L"]  # bus index
    resistance: Float[Array, " L"]  # pu/kW
    reactance: Float[Array, " L"]  # pu/kW
    rating: Float[Array, " L"]  # kVA
    voltage_min: Float[Array, " B"]  # pu
    voltage_max: Float[Array, " B"]  # pu
    angle_min: Float[Array, " B"]  # rad
    angle_max: Float[Array, " B"]  # rad
    feeder: Int[Array, " F"]  # bus index
    feeder_voltage: Float[Array, "F H"]  # pu
    passive: Float[Array, "B H"]  # kW
    passive_reactive: Float[Array, "B H"]  # kvar
    compensation_max: Float[Array, "B H"]  # kvar
    model: GridModel = eqx.field(static=True)
    reactive_balance: bool = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        passive: Any,
        source: Any = (),
        target: Any = (),
        resistance: Any = 0.0,
        reactance: Any = 0.0,
        *,
        rating: Any = np.inf,
        voltage_min: Any = 0.95,
        voltage_max: Any = 1.05,
        angle_min: Any = -np.pi / 12,
        angle_max: Any = np.pi / 12,
        feeder: Any = (0,),
        feeder_voltage: Any = 1.0,
        passive_reactive: Any = 0.0,
        compensation_max: Any = 0.0,
        model: GridModel = "lindistflow",
        reactive_balance: bool | None = None,
        names: tuple[str, ...] = (),
    ):
        if model not in get_args(GridModel):
            raise ValueError(f"Grid.model: {model!r} is none of {', '.join(get_args(GridModel))}.")
        if reactive_balance is False and model == "lindistflow":
            raise ValueError(
                "Grid.reactive_balance: lindistflow always balances reactive power; "
                "leave it out, or use model='paper'."
            )
        self.passive = _float(passive)
        if self.passive.ndim != 2:
            raise ValueError(
                f"Grid.passive: expected shape (buses, hours), got {self.passive.shape}."
            )
        self.passive_reactive = _hourly(passive_reactive, self.passive.shape)
        self.compensation_max = _hourly(compensation_max, self.passive.shape)
        self.source = _int(source)
        self.target = _int(target)
        lines, buses = (self.source.shape[0],), (self.passive.shape[0],)
        self.resistance = _hourly(resistance, lines)
        self.reactance = _hourly(reactance, lines)
        self.rating = _hourly(rating, lines)
        self.voltage_min = _hourly(voltage_min, buses)
        self.voltage_max = _hourly(voltage_max, buses)
        self.angle_min = _hourly(angle_min, buses)
        self.angle_max = _hourly(angle_max, buses)
        self.feeder = _int(feeder)
        fed = (self.feeder.shape[0], self.passive.shape[1])
        self.feeder_voltage = _hourly(feeder_voltage, fed)
        self.model = model
        self.reactive_balance = model == "lindistflow" or bool(reactive_balance)
        self.names = tuple(names)


class Tariff(eqx.Module):
    """What the main grid charges: `base + slope * sigma` per kWh, sigma the total gross import.

    `total_min`, `total_max` bound the net exchange s = sigma - exports. `anticipation` (kappa) is
    1 when prosumers see their own effect on the price (Nash), 0 when they take it (Wardrop).
    """

    base: Float[Array, " H"]  # EUR/kWh
    slope: Float[Array, " H"]  # EUR/kWh per kW
    export: Float[Array, " H"]  # EUR/kWh
    total_min: Float[Array, " H"]  # kW
    total_max: Float[Array, " H"]  # kW
    anticipation: Float[Array, ""]

    def __init__(
        self,
        slope: Any,
        *,
        hours: int,
        base: Any = 0.0,
        export: Any = 0.0,
        total_min: Any = -np.inf,
        total_max: Any = np.inf,
        anticipation: Any = 1.0,
    ):
        self.slope = _hourly(slope, (hours,))
        self.base = _hourly(base, (hours,))
        self.export = _hourly(export, (hours,))
        self.total_min = _hourly(total_min, (hours,))
        self.total_max = _hourly(total_max, (hours,))
        self.anticipation = _float(anticipation)


class Market(eqx.Module):
    """Everything the equilibrium depends on; `jg.validate(market)` checks it in full.

    Each of the H steps is `hour_length` hours long. With a `clock` they have a time: people, tables
    and plots then read clock times, and hours since the start without. It changes no plan.

    Raises `ValueError` when the tables disagree on the number of hours.
    """

    prosumers: Prosumers
    generators: Generators
    buffers: Buffers
    trading: Trading
    grid: Grid
    tariff: Tariff
    hour_length: Float[Array, ""]  # h
    clock: Clock | None

    def __init__(
        self,
        prosumers: Prosumers,
        grid: Grid,
        tariff: Tariff,
        generators: Generators | None = None,
        buffers: Buffers | None = None,
        trading: Trading | None = None,
        hour_length: Any = 1.0,
        clock: Clock | None = None,
    ):
        hours = prosumers.load.shape[-1]
        self.prosumers = prosumers
        self.grid = grid
        self.tariff = tariff
        self.generators = Generators((), (), hours=hours) if generators is None else generators
        self.buffers = Buffers((), (), (), (), (), hours=hours) if buffers is None else buffers
        self.trading = Trading((), (), ()) if trading is None else trading
        self.hour_length = _float(hour_length)
        self.clock = clock

    def __check_init__(self):
        hours = self.prosumers.load.shape[-1]
        tables = {
            "Grid.passive": self.grid.passive,
            "Tariff.slope": self.tariff.slope,
            "Generators.power_max": self.generators.power_max,
            "Buffers.charge_max": self.buffers.charge_max,
        }
        for name, array in tables.items():
            if array.shape[-1] != hours:
                raise ValueError(
                    f"{name}: {array.shape[-1]} hours, but Prosumers.load has {hours}; "
                    "give every table the same number of hours."
                )
        if self.prosumers.bus.shape != self.prosumers.load.shape[:1]:
            raise ValueError(
                f"Prosumers.bus: {self.prosumers.bus.shape[0]} buses for "
                f"{self.prosumers.load.shape[0]} rows of load; give one bus per prosumer."
            )
        if self.grid.source.shape != self.grid.target.shape:
            raise ValueError(
                f"Grid.source: {self.grid.source.shape[0]} sources but "
                f"{self.grid.target.shape[0]} targets; give one of each per line."
            )
        if self.trading.buyer.shape != self.trading.seller.shape:
            raise ValueError(
                f"Trading.buyer: {self.trading.buyer.shape[0]} buyers but "
                f"{self.trading.seller.shape[0]} sellers; give one of each per pair."
            )

    def __str__(self) -> str:
        return describe(self)
