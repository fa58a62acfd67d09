"""Which device holds what: a batch by scenario, or one market by prosumer, over a device mesh.

Only where arrays lie changes; what is computed with them does not. Scenarios need nothing of one
another, so each device clears its own. Prosumers meet in trades, the totals and the network: a step
exchanges their prices of energy (N H numbers) and sums their balances (as many).
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .market import Market
from .scenarios import pad

T = TypeVar("T")
TABLES = ("prosumers", "generators", "buffers", "trading")  # one row a prosumer, device or pair


def spread(
    tree: T,
    axis: Literal["scenarios", "prosumers"] = "scenarios",
    devices: Sequence[Any] | None = None,
) -> T:
    """The same market, batch of markets or batch of clearings, its arrays over several devices.

    `axis="scenarios"`: every array of `tree` is cut along its leading axis of scenarios, whose
    number the devices must divide. `axis="prosumers"`: a single market is cut by prosumer,
    generator, buffer and pair, with rows added that take part in nothing where the devices do not
    divide their number (`scenarios.pad`); grid and tariff are on every device.

    `devices` are all of JAX's by default, those of other processes included: every process then
    calls `spread` with the same data. Raises `ValueError` where the arrays do not fit.
    """
    chosen = jax.devices() if devices is None else list(devices)
    mesh = Mesh(np.asarray(chosen), (axis,))
    if devices is None and jax.process_count() > 1:
        sync_global_devices("spread")  # connects all processes: one that comes late finds no other
    if axis == "scenarios":
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if not np.ndim(leaf) or np.shape(leaf)[0] % mesh.size:
                name = jax.tree_util.keystr(path).lstrip(".")
                raise ValueError(
                    f"spread: {name} has shape {np.shape(leaf)}; its first axis must be scenarios, "
                    f"a multiple of the {mesh.size} devices."
                )
        return place(tree, mesh)
    if axis != "prosumers":
        raise ValueError(f"spread: axis={axis!r}; give 'scenarios' or 'prosumers'.")
    if not isinstance(tree, Market) or tree.prosumers.load.ndim != 2:
        raise ValueError("spread: axis='prosumers' takes one market; for a batch use 'scenarios'.")

    def up(count: int) -> int:
        return -(-count // mesh.size) * mesh.size

    market = pad(
        tree,
        prosumers=up(tree.prosumers.bus.shape[0]),
        generators=up(tree.generators.owner.shape[0]),
        buffers=up(tree.buffers.owner.shape[0]),
        pairs=up(tree.trading.buyer.shape[0]),
    )

    def put(path: Any, leaf: Any) -> Any:
        cut = path[0].name in TABLES
        return _put(leaf, NamedSharding(mesh, PartitionSpec(axis if cut else None)))

    return jax.tree_util.tree_map_with_path(put, market)


def place(tree: T, mesh: Mesh) -> T:
    """Every array cut along its first axis over the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    return jax.tree.map(lambda leaf: _put(leaf, sharding), tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array on its devices, of which each process fills its own."""
    if not np.ndim(leaf):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh over which `spread` has cut a batch by scenario; none on a single device."""
    sharding = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.axis_names != ("scenarios",):
        return None
    mesh = sharding.mesh
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def own_part(tree: T) -> T:
    """What this process holds of a batch that is cut by scenario, on the host."""

    def held(leaf: jax.Array) -> np.ndarray:
        pieces = {piece.index[0].start or 0: piece.data for piece in leaf.addressable_shards}
        return np.concatenate([np.asarray(pieces[at]) for at in sorted(pieces)])

    return jax.tree.map(held, tree)


def whole(tree: T, mesh: Mesh) -> T:
    """`own_part` undone: the batch of all processes, each of which gives its part."""
    sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
    )


def local_mesh(mesh: Mesh) -> Mesh | None:
    """The mesh of this process' own devices; none if that is a single one."""
    own = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    return Mesh(np.asarray(own), mesh.axis_names) if len(own) > 1 else None
