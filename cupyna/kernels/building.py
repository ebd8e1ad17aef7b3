"""Build kernels ahead of time, into the directory that wheels ship."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .cache import Record, write_whole
from .compiler import FLAGS, Compiler, compile_variant
from .manifest import Target
from .sources import Sources
from .store import INDEX_NAME, Store, cubin_name
from .variant import Variant

__all__ = ["Build", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one target: a record, or an error."""

    variant: Variant
    arch: str
    record: Record | None
    error: str = ""


@dataclass
class Build:
    """A directory of cubins and its index.

    Parameters
    ----------
    compiler : Compiler
    sources : Sources
    output : Path
        Where the cubins go. Files of earlier sources, flags or compilers are removed from it.
    scratch : Path
        Directory for headers that the compiler unpacks once.
    """

    compiler: Compiler
    sources: Sources
    output: Path
    scratch: Path

    def run(self, wanted: Sequence[Target], jobs: int = 1) -> Iterator[Outcome]:
        """Compile what is not there yet, `jobs` processes at a time, and write the index.

        Yields
        ------
        Outcome
            One for each target, as it is done. The index is written after the last one, and
            lists what succeeded.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        # What is built of the same sources stays, whichever architectures are asked for.
        there = Store(self.sources, self.output, self.scratch, self.compiler)
        kept = dict(there.index.get("cubins", {})) if self._continues(there) else {}
        missing: list[Target] = []
        for variant, arch in wanted:
            name = self._name(variant, arch)
            record = there.record(variant, arch) if name in kept else None
            if record is None:
                kept.pop(name, None)
                missing.append((variant, arch))
            else:
                yield Outcome(variant, arch, record)
        for outcome in self._compile(missing, jobs):
            if outcome.record is not None:
                kept[self._name(outcome.variant, outcome.arch)] = outcome.record.to_json()
            yield outcome
        self._finish(kept)

    def _compile(self, missing: Sequence[Target], jobs: int) -> Iterator[Outcome]:
        if jobs == 1 or len(missing) < 2:
            for variant, arch in missing:
                yield self._compile_one(variant, arch)
            return
        # The first compile unpacks the compiler's headers for all that follow.
        yield self._compile_one(*missing[0])
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(missing)), mp_context=context) as pool:
            running = [pool.submit(self._compile_one, *target) for target in missing[1:]]
            for future in as_completed(running):
                yield future.result()

    def _compile_one(self, variant: Variant, arch: str) -> Outcome:
        try:
            compiled = compile_variant(self.compiler, self.sources, variant, arch, self.scratch)
        except RuntimeError as error:
            return Outcome(variant, arch, None, str(error))
        write_whole(self.output / self._name(variant, arch), compiled.cubin)
        return Outcome(variant, arch, Record.of(compiled, self.compiler.identity))

    def _name(self, variant: Variant, arch: str) -> str:
        return cubin_name(variant, arch, self.compiler.identity, self.sources.digest)

    def _continues(self, there: Store) -> bool:
        return bool(there.index) and self._heading().items() <= there.index.items()

    def _heading(self) -> dict[str, object]:
        return {
            "compiler": self.compiler.identity,
            "flags": list(FLAGS),
            "source_digest": self.sources.digest,
        }

    def _finish(self, kept: dict[str, object]) -> None:
        index = {**self._heading(), "cubins": dict(sorted(kept.items()))}
        write_whole(self.output / INDEX_NAME, json.dumps(index, indent=1).encode())
        for path in self.output.glob("*.cubin"):
            if path.name not in kept:
                path.unlink()
