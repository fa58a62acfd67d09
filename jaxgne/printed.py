"""A clearing for people: its certificate in words, key figures and prices by hour, as tables."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .arguments import of_tables
from .clock import hour as hour_text
from .clock import local_text
from .each import for_one
from .indicators import BATCH, summary
from .market import Market
from .result import Clearing
from .runner import hosted

_TOLD = 5  # caps that are named


@of_tables
@for_one(BATCH)
@hosted
def table(market: Market, clearing: Clearing) -> Group:
    """`summary` for the eye: status, the certificate in words, key figures, prices by hour.

    Of an infeasible market, whose last iterate is no plan, why it is one.
    """
    facts = summary(market, clearing)
    if facts["status"] == "infeasible":
        return Group(_status(facts))
    return Group(_heading(facts), Text(), _figures(facts), Text(), _hours(facts))


def _heading(facts: dict[str, Any]) -> Group:
    return Group(_status(facts), *map(Text, facts["certificate"]["sentences"]))


def _status(facts: dict[str, Any]) -> Text:
    if facts["status"] == "cleared":
        size = f"{facts['prosumers']} prosumers, {facts['hours']} hours, {facts['grid_model']}"
        return Text(f"Cleared after {facts['steps']} steps ({size})", style="bold green")
    if facts["status"] == "uncontrolled":
        size = f"{facts['prosumers']} prosumers, {facts['hours']} hours, {facts['grid_model']}"
        return Text(f"Today, uncontrolled ({size})", style="bold")
    words = f"NOT CLEARED ({facts['status']}) after {facts['steps']} steps. {facts['message']}"
    return Text(words, style="bold red")


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _called(place: dict[str, Any], zone: str | None) -> str:
    """When a step begins, in words."""
    name = f"hour {hour_text(place['hour'])}" if zone is None else local_text(place["time"], zone)
    return f"{name} (step {place['step']})" if "step" in place else name


def _within(place: dict[str, Any], zone: str | None) -> str:
    """That in a sentence."""
    return f"{'in' if zone is None else 'at'} {_called(place, zone)}"


def _figures(facts: dict[str, Any]) -> Table:
    bill, cost, energy = facts["bill_eur"], facts["cost_eur"], facts["energy_kwh"]
    peak, physical = facts["contracted_peak"], facts["transformer"]
    zone = facts.get("zone")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    more = _shown(cost["total"], 2)
    grid.add_row(
        "Bills",
        f"{_shown(bill['total'], 2)} EUR in total; per prosumer {_shown(bill['mean'], 2)} "
        f"({_shown(bill['min'], 2)} to {_shown(bill['max'], 2)}) EUR"
        + (f"; {more} EUR with what devices cost" if more != _shown(bill["total"], 2) else ""),
    )
    amounts = [
        f"{name} {_shown(amount, 1)}"
        for name, amount in energy.items()
        if amount != 0 or name in ("imported", "traded")
    ]
    grid.add_row("Energy, kWh", ", ".join(amounts))
    when = _within(peak, zone)
    grid.add_row("Contracted", f"import up to {_shown(peak['kw'], 1)} kW {when}")
    grid.add_row("Transformer", _flows(physical, zone))
    if facts["aggregate_limit_steps"]:
        when = [_called(facts["by_hour"][step], zone) for step in facts["aggregate_limit_steps"]]
        hours = hour_text(facts["hours_at_aggregate_limit"])
        grid.add_row(
            "Total exchange",
            f"at its limit in {hours} hours ({', '.join(w.removeprefix('hour ') for w in when)})",
        )
    binding = [cap for cap in facts["caps"] if cap["binding_hours"]]
    if facts["caps"]:
        told, free = binding[:_TOLD], len(facts["caps"]) - len(binding)
        rest = ((len(binding) - len(told), "more with a price"), (free, "without a price"))
        words = [_cap(cap, facts) for cap in told]
        words += [f"{count} {kind}" for count, kind in rest if count]
        grid.add_row("Caps", "; ".join(words))
    _network(grid, facts)
    return grid


def _cap(cap: dict[str, Any], facts: dict[str, Any]) -> str:
    """A cap that binds, in words."""
    unit, high, zone = cap["unit"], cap["highest_level"], facts.get("zone")
    each = f"EUR per {unit}" if unit else "EUR a unit"
    hours = hour_text(cap["hours_with_a_price"])
    level = f"{high['level']:,.4g} {unit}".strip()
    return (
        f"{cap['name']} up to {level} {_within(high, zone)}, {hours} h with a price of up to "
        f"{_shown(cap['price_eur_per_unit'], 4)} {each}"
    )


def _flows(physical: dict[str, Any], zone: str | None) -> str:
    """What the transformer carries either way, in words."""
    ways = [
        f"{_shown(physical[f'{way}_kwh'], 1)} kWh {way}, up to {_shown(most['kw'], 1)} kW "
        f"{_within(most, zone)}"
        for way, most in (("in", physical["peak_in"]), ("out", physical["peak_out"]))
        if physical[f"{way}_kwh"] != 0
    ]
    shares = [
        f"{name} {100 * share:.1f} %"
        for name in ("self-sufficiency", "self-consumption")
        if (share := physical[f"physical_{name.replace('-', '_')}"]) is not None
    ]
    return "; ".join([*ways, *shares]) or "idle"


def _network(grid: Table, facts: dict[str, Any]) -> None:
    """Add the rows about voltages and lines."""
    volts, lines = facts["voltage"], facts["lines"]
    if facts["ac"] and not volts:
        grid.add_row("Voltage, lines", "not determined by this grid model: see the AC power flow")
    zone = facts.get("zone")
    if volts:
        low, high = volts["lowest"], volts["highest"]
        grid.add_row(
            "Voltage",
            f"{_shown(low['pu'], 4)} pu (bus {low['bus']}, {_called(low, zone)}) to "
            f"{_shown(high['pu'], 4)} pu (bus {high['bus']}, {_called(high, zone)}); at a limit in "
            f"{volts['bus_hours_at_limit']} of {volts['bus_hours']} bus-hours",
        )
    if lines:
        loading = lines["highest_loading"]
        grid.add_row(
            "Lines",
            f"up to {_shown(None if loading is None else 100 * loading, 1)} % of the rating (line "
            f"{'-'.join(lines['ends'])}, {_called(lines, zone)}); full in "
            f"{lines['line_hours_at_limit']} of {lines['line_hours']} line-hours",
        )
    if facts["ac"]:
        _ac_row(grid, facts["ac"], zone)


def _ac_row(grid: Table, found: dict[str, Any], zone: str | None) -> None:
    """Add the row about the AC power flow."""
    if not found["examined"]:
        grid.add_row("AC power flow", "not examined: not every bus has a path to a feeder bus")
        return
    words = "AC-safe" if found["safe"] else "NOT AC-safe"
    if not found["converged"]:
        words += ": does not converge; some hour asks more of the lines than they carry"
        grid.add_row("AC power flow", words)
        return
    low, high, most = found["lowest"], found["highest"], found["highest_loading"]
    loss = found["largest_loss"]
    of = "three phases" if "largest_unbalance" in found else "balanced equivalent"
    words += (
        f" ({of}): {_shown(low['pu'], 4)} pu (bus {low['bus']}, "
        f"{_called(low, zone)}) to {_shown(high['pu'], 4)} pu (bus {high['bus']}, "
        f"{_called(high, zone)})"
    )
    if most["ends"]:
        share = _shown(None if most["share"] is None else 100 * most["share"], 1)
        words += (
            f"; lines up to {share} % by current ({'-'.join(most['ends'])}, "
            f"{_called(most, zone)}); losses {_shown(found['losses_kwh'], 1)} kWh, at most "
            f"{_shown(loss['kw'], 1)} kW ({'-'.join(loss['ends'])}, {_called(loss, zone)})"
        )
    if "largest_unbalance" in found:
        most = found["largest_unbalance"]
        words += (
            f"; unbalance up to {_shown(100 * most['factor'], 2)} % (bus {most['bus']}, "
            f"{_called(most, zone)})"
        )
    if "largest_neutral" in found:
        back = found["largest_neutral"]
        words += (
            f", neutrals up to {_shown(back['kva'], 1)} kVA ({'-'.join(back['ends'])}, "
            f"{_called(back, zone)})"
        )
    grid.add_row("AC power flow", words)


def _hours(facts: dict[str, Any]) -> Table:
    """One row per hour; prices in EUR/kWh."""
    rows = Table(
        title="By hour (prices in EUR/kWh; the mean weighs prosumers by what they draw or feed in)",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    zone = facts.get("zone")
    names = ("transformer kW", "grid price", "mean price", "min", "max", "traded kW")
    heads = ("hour" if zone is None else zone, *names)
    networked = facts["voltage"] is not None
    for head in (*heads, *(["lowest V pu"] if networked else [])):
        rows.add_column(head, justify="right", no_wrap=head == heads[0])
    for entry in facts["by_hour"]:
        cells = [
            _called(entry, zone).removeprefix("hour "),
            _shown(entry["transformer_kw"], 1),
            _shown(entry["grid_price_eur_per_kwh"], 4),
            _shown(entry["energy_price_mean_eur_per_kwh"], 4),
            _shown(entry["energy_price_min_eur_per_kwh"], 4),
            _shown(entry["energy_price_max_eur_per_kwh"], 4),
            _shown(entry["traded_kw"], 1),
        ]
        if networked:
            cells.append(_shown(entry["lowest_voltage_pu"], 4))
        rows.add_row(*cells)
    return rows
