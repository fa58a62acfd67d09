"""What a report says in words at its top: status, certificate, and key figures with their units."""

from typing import Any

import numpy as np

from ..clock import hour_name, label
from ..market import Market
from ..model import counted


def status_words(facts: dict[str, Any]) -> tuple[str, bool]:
    """How the clearing ended, and whether that is fine."""
    size = f"{facts['prosumers']:,} prosumers, {facts['hours']} hours, {facts['grid_model']} grid"
    if facts["status"] == "cleared":
        return f"Cleared: {size}", True
    if facts["status"] == "uncontrolled":
        return f"Today, uncontrolled: {size}", True
    return f"NOT CLEARED ({facts['status']}): {size}. {facts['message']}", False


def period(market: Market) -> str:
    """From when to when, in words."""
    lengths = np.asarray(market.hour_length, float)
    total = float(np.sum(np.asarray(counted(market), float)))
    if market.clock is None or market.before is not None or not np.isclose(total, lengths.sum()):
        return f"{total:,.6g} hours from {hour_name(market, 0)}"
    end = label(market.clock.after(float(lengths.sum())))
    return f"{hour_name(market, 0)} to {end} ({market.clock.zone})"


def sentences(facts: dict[str, Any]) -> list[str]:
    """The certificate in words, what an AC power flow says of the plan, and last its errors."""
    errors, *found = facts["certificate"]["sentences"]
    if facts["ac"] is not None and not any("AC" in sentence for sentence in found):
        found.insert(1, _ac_words(facts["ac"]))
    return [f"{words[:1].upper()}{words[1:].rstrip('.')}." for words in (*found, errors)]


def _ac_words(ac: dict[str, Any]) -> str:
    if not ac["examined"]:
        return "Its AC power flow was not examined: not every bus has a path to a feeder bus."
    if not ac["converged"]:
        return "NOT AC-safe: its AC power flow does not converge in some hour."
    if ac["safe"]:
        return "AC-safe: the AC power flow of the plan stays within all limits."
    return "NOT AC-safe: the AC power flow of the plan breaks a limit (see where it is tight)."


def figures(facts: dict[str, Any], labels: list[str]) -> list[tuple[str, str, str]]:
    """Key figures: what, the number with its unit, and where or when."""

    def at(place: dict[str, Any]) -> str:
        return labels[step_of(facts, place)]

    bill, energy, physical = facts["bill_eur"], facts["energy_kwh"], facts["transformer"]
    found = []
    if bill["total"] is not None:
        each = f"{bill['min']:,.2f} to {bill['max']:,.2f} EUR a prosumer"
        found.append(("Bills of all prosumers", f"{bill['total']:,.2f} EUR", each))
    found.append(("Traded among prosumers", f"{energy['traded'] or 0:,.1f} kWh", "all hours"))
    peak = physical["peak_in"]
    found.append(("Transformer, highest import", f"{peak['kw']:,.1f} kW", at(peak)))
    if physical["out_kwh"]:
        out = physical["peak_out"]
        found.append(("Transformer, highest export", f"{out['kw']:,.1f} kW", at(out)))
    share = physical["physical_self_sufficiency"]
    if share is not None:
        found.append(
            ("Self-sufficiency", f"{round(100 * share, 1) + 0.0:.1f} %", "of what is used here")
        )
    return found + _state(facts, at)


def _state(facts: dict[str, Any], at: Any) -> list[tuple[str, str, str]]:
    """Those of the network: by the AC power flow, or else by the grid model."""
    ac, volts, lines, found = facts["ac"], facts["voltage"], facts["lines"], []
    if ac and ac["examined"] and ac["converged"]:
        for which in ("lowest", "highest"):
            place = ac[which]
            words = f"bus {place['bus']}, {at(place)}"
            found.append((f"{which.capitalize()} voltage (AC)", f"{place['pu']:.4f} pu", words))
        most = ac["highest_loading"]
        if most["ends"] and most["share"]:
            words = f"{'-'.join(most['ends'])}, {at(most)}"
            found.append(("Fullest line (AC)", f"{100 * most['share']:.1f} % of rating", words))
        return [*found, ("Losses (AC)", f"{ac['losses_kwh']:,.1f} kWh", "all hours")]
    if volts:
        for which in ("lowest", "highest"):
            place = volts[which]
            words = f"bus {place['bus']}, {at(place)}"
            found.append((f"{which.capitalize()} voltage", f"{place['pu']:.4f} pu", words))
    if lines and lines["highest_loading"]:
        words = f"{'-'.join(lines['ends'])}, {at(lines)}"
        share = f"{100 * lines['highest_loading']:.1f} % of rating"
        found.append(("Fullest line", share, words))
    return found


def step_of(facts: dict[str, Any], place: dict[str, Any]) -> int:
    """The step that a place of the summary tells."""
    if "step" in place:
        return int(place["step"])
    return [entry["hour"] for entry in facts["by_hour"]].index(place["hour"])
