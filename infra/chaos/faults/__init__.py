"""All faults by name, in the order in which they are injected alone."""

from infra.chaos.faults import bodies, broker, database, front, messages, outside, workers
from infra.chaos.faults.fault import Fault, NotInjected, Scene, Window

__all__ = ["GROUPS", "Fault", "NotInjected", "Scene", "Window", "all_faults"]

_MODULES = (workers, front, broker, database, bodies, messages, outside)
GROUPS = ("workers", "api", "beat", "broker", "database", "jobs", "messages", "outside")


def all_faults(lease: float) -> dict[str, Fault]:
    """`lease`: seconds after which a silent worker has lost its jobs."""
    return {fault.name: fault for module in _MODULES for fault in module.faults(lease)}
