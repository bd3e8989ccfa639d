"""Measures one size in a process of its own, so that its peak of memory is its own and a size that does not fit ends nothing else."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from training.data import Progress


@dataclass(frozen=True, slots=True)
class Size:
    """How much data."""

    events: int
    items: int

    @property
    def key(self) -> str:
        """Names it in growth.json."""
        return f"{self.events}x{self.items}"


def measure(size: Size, progress: Progress) -> tuple[dict[str, Any] | None, str]:
    """Returns what `Stages.run` does, or None and what went wrong.

    Interrupted, it ends the child and raises KeyboardInterrupt.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(size, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        while True:
            kind, *message = ours.recv()
            if kind == "done":
                return message[0], ""
            if kind == "failed":
                return None, message[0]
            progress(f"{size.events:,} events, {size.items:,} items: {message[0]}", message[1])
    except EOFError:
        child.join()
        return None, f"the process ended with code {child.exitcode}; -9 is the kernel's answer to too little memory"
    finally:
        child.terminate()
        child.join()


def _child(size: Size, parent: Connection) -> None:
    from training.growth.stages import Stages

    try:
        found = Stages(size.events, size.items, lambda step, share: parent.send(("step", step, share))).run()
    except KeyboardInterrupt:
        return
    except Exception as error:  # noqa: BLE001  # the parent says which size failed and goes on with the next
        parent.send(("failed", f"{type(error).__name__}: {error}"))
    else:
        parent.send(("done", found))
