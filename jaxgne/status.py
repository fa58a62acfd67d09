"""How a clearing ended, and what to do then."""

import equinox as eqx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from .runner import on_host

STATUSES = (  # in the order of their numbers
    "cleared",
    "max_steps",
    "infeasible",
    "nonfinite",
    "uncontrolled",
    "stopped",
)


class Status(eqx.Enumeration):
    """How a clearing ended; the message says what to do."""

    cleared = "cleared"
    max_steps = (
        "Stopped at max_steps before reaching tol. Raise max_steps, loosen tol, pass "
        "start=clearing to go on, or take solver=PrimalDual()."
    )
    infeasible = "No plan meets all limits."
    nonfinite = (
        "Iterates became non-finite. Run jg.validate(market): a NaN, or a number far out of scale?"
    )
    uncontrolled = "Nobody optimizes: what everyone does at the tariff, no equilibrium."
    stopped = (
        "Stopped before tol was reached. Pass start=clearing, on the shell --warm-start, to go on."
    )


def is_status(status: Status, which: Status) -> Bool[Array, ""]:
    """Whether a status is `which`; equinox' own comparison makes an array of JAX's."""
    if isinstance(status._value, Tracer):
        return status == which
    return np.asarray(status._value) == np.asarray(which._value)


def either(chosen: Array, yes: Status, no: Status) -> Status:
    """The status `yes` where `chosen`, else `no`."""
    if on_host():
        return yes if chosen else no
    return Status.where(chosen, yes, no)


def status_name(status: Status) -> str:
    """The word for a status, one of `STATUSES`."""
    return next(word for word in STATUSES if bool(is_status(status, getattr(Status, word))))


def status_message(status: Status) -> str:
    """What a status says to do; also where it holds a number of NumPy's."""
    return str(Status[getattr(Status, status_name(status))])
