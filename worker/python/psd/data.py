"""The rows that a worker trains on, as a function of the job's position, so that the union of all workers' rows is the same batch
for any number of workers, and a job that goes back to a checkpoint repeats the right rows. The order is psd-worker's, row for
row."""

from __future__ import annotations

import sys
from typing import Any, Callable, Iterator, NamedTuple, Protocol, Sized

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .worker import Position, log, number

Rows = npt.NDArray[np.int64]
_MUCH_LESS = 0.9  # of the rows that steps should have had


class Trainer(Protocol):
    """The consumer of batches: psd.Optimizer or psd.Worker."""

    batch_samples: int
    divides_rows: bool

    @property
    def position(self) -> Position:
        """Its position."""

    @property
    def samples_per_round(self) -> float:
        """Mean number of samples of the job's rounds so far; NaN: not known."""

    def skip(self) -> None:
        """Take part in the next step without a gradient."""

    def say_rows(self, rows: str) -> None:
        """Say what rows it divides with the other workers, and how."""


class Cut(NamedTuple):
    """One worker's part of one step."""

    rows: Rows  #: row numbers; none when the step has fewer rows than workers
    n_round: int  #: rows of all workers together
    epoch: int  #: from 0


class Order:
    """Rows of each step: an epoch is a shuffle of all rows (Fisher and Yates's, by splitmix64 with state seed + 1000 (epoch + 1)),
    a step the next `batch_size` of them. The last step of an epoch takes the remaining rows or, with `drop_last`, is left out."""

    def __init__(self, n_rows: int, batch_size: int, shuffle: bool = True, seed: int = 1, drop_last: bool = False) -> None:
        if not _is_whole(batch_size) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}", hint="give the number of rows of one step, over all workers together")
        if not _is_whole(seed) or not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed!r}", hint="give a whole number from 0 on, the same to all workers")
        if not n_rows:
            raise UsageError("the data have no rows", hint="is the path or the filter of the dataset right?")
        if n_rows >= 2**32:
            raise UsageError(f"{n_rows} rows are too many", hint="psd numbers less than 2^32 rows; divide the data")
        if drop_last and n_rows < batch_size:
            raise UsageError(f"{n_rows} rows are too few for a batch of {batch_size}",
                             hint="give a smaller batch_size, or leave out drop_last")
        self.n_rows, self.batch_size, self.shuffle, self.seed = n_rows, batch_size, shuffle, seed
        self.steps = n_rows // batch_size if drop_last else -(-n_rows // batch_size)
        self.text = f"{n_rows} rows, batch_size {batch_size}, {f'seed {seed}' if shuffle else 'shuffle False'}" + ", drop_last" * drop_last
        self._epoch, self._order = -1, np.arange(n_rows)

    def _shuffled(self, epoch: int) -> Rows:
        n = self.n_rows
        with np.errstate(over="ignore"):
            z = np.uint64(self.seed + 1000 * (epoch + 1)) + np.arange(1, n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
        order = list(range(n))
        for i, j in zip(range(n - 1, 0, -1), (z % np.arange(n, 1, -1, dtype=np.uint64)).tolist()):
            order[i], order[j] = order[j], order[i]
        return np.array(order)

    def mean(self, clock: int) -> float:
        """Mean number of rows of the steps before step `clock`."""
        epochs, steps = divmod(clock - 1, self.steps)
        of_epoch = min(self.steps * self.batch_size, self.n_rows)
        return (epochs * of_epoch + min(steps * self.batch_size, of_epoch)) / (clock - 1)

    def at(self, clock: int, rank: int, world: int) -> Cut:
        """The rows of worker `rank` of `world` in step `clock`, from 1."""
        epoch, step = divmod(clock - 1, self.steps)
        if self.shuffle and epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        rows = self._order[step * self.batch_size:(step + 1) * self.batch_size]
        n = len(rows)
        return Cut(rows[n * rank // world:n * (rank + 1) // world], n, epoch)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _count(data: Any) -> int:
    if not hasattr(data, "__getitem__"):  # a DistributedSampler would be taken for a dataset of as many rows
        raise UsageError(f"the data are a {type(data).__name__}, whose rows have no numbers",
                         hint="give arrays or a dataset, without a loader or a sampler: psd divides the rows itself")
    try:
        return len(data)
    except TypeError:
        raise UsageError(f"the data are a {type(data).__name__}, without a length",
                         hint="give arrays, or a dataset whose rows have numbers, because psd cuts batches by them") from None


class Sampler:
    """A batch sampler for torch's DataLoader: `DataLoader(data, batch_sampler=psd.Sampler(data, opt, batch_size=64))`.

    `batch_size` is that of one step, of all workers together. Each iteration is one epoch of the job: the n-th ends when the job
    has trained n epochs, at once if it already has, so that a worker that joins late, or restarts, ends with the others. With
    `accumulate`, each step's rows come as that many batches, for opt.no_sync(). The loader must not fetch ahead (num_workers=0),
    because the next rows are known only after the step; psd.Loader does.
    """

    def __init__(self, data: Sized, trainer: Trainer, batch_size: int, shuffle: bool = True, seed: int = 1, drop_last: bool = False,
                 accumulate: int = 1) -> None:
        if not hasattr(trainer, "divides_rows"):
            raise UsageError(f"a {type(trainer).__name__} is given, whose position would cut the batches",
                             hint="make psd.Optimizer first, or psd.connect(), and give that")
        self.order = Order(_count(data), batch_size, shuffle, seed, drop_last)
        if not _is_whole(accumulate) or not 0 < accumulate <= batch_size:
            raise UsageError(f"accumulate is {accumulate!r}", hint="it is the number of batches that make one step")
        self.trainer, self.accumulate, self._epochs, self._begun_at = trainer, accumulate, 0, 0
        self._has_begun, self._is_another, self._has_warned = False, trainer.divides_rows, False
        trainer.divides_rows = True

    def __len__(self) -> int:
        return self.order.steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        caller = sys._getframe(1).f_locals.get("self")  # DataLoader(sampler=) makes batches of what it takes for row numbers
        if type(caller).__module__ == "torch.utils.data.sampler":
            raise UsageError("psd.Sampler is given to DataLoader as sampler=, which would make batches of its batches",
                             hint="give it as batch_sampler=, without batch_size, shuffle and drop_last: "
                                  "DataLoader(data, batch_sampler=psd.Sampler(data, opt, batch_size=64))")
        return self._until(self._next_epoch())

    def _next_epoch(self) -> int:
        """Begin the next iteration; returns the clock of its last step. It is the same epoch again if the iteration before had batches
        and no step was made, as in next(iter(loader)) for a look at a batch."""
        clock = self.trainer.position.clock
        if clock != self._begun_at or clock > self._epochs * self.order.steps:
            self._epochs += 1
        self._begun_at = clock
        self._note_resumed(self._epochs * self.order.steps)
        return self._epochs * self.order.steps

    def _note_resumed(self, last: int) -> None:
        """Log, before the first batch, that the job has trained epochs already, whose iterations are empty, or with other batches."""
        clock = self.trainer.position.clock
        if not self._has_begun and not self._is_another and clock > 1:
            self._note_other_batches(clock)
        if not self._has_begun and clock > last and self._is_another:
            log.warning("epochs.done clock=%d this psd.Sampler, psd.Loader or psd.batches is new, but the job has trained %d epochs with "
                        "an earlier one, and they count: so its first %d have no batches; make one for all epochs before the loop, or give "
                        "psd.batches epochs=", clock, (clock - 1) // self.order.steps, (clock - 1) // self.order.steps)
        elif not self._has_begun and clock > last:
            log.warning("epochs.done clock=%d the job has trained %d epochs already, so as many iterations have no batches; for a new "
                        "job, start the servers without its checkpoints", clock, (clock - 1) // self.order.steps)
        self._has_begun = True

    def _note_other_batches(self, clock: int) -> None:
        """Log that steps so far had other numbers of rows than these batches would have had. More than batch_size is certain; less may be
        the part of a worker that was lost, so only much less counts."""
        had, mean = self.trainer.samples_per_round, self.order.mean(clock)
        if had > self.order.batch_size or had < _MUCH_LESS * mean:
            log.warning("rows.otherwise clock=%d the job's steps so far had a mean of %.4g samples, but those of these batches have one "
                        "of %.4g (%s): so the epoch goes on at another row, and some rows are trained more or less often than others; give "
                        "the batch_size of before, or, for a new job, start the servers without its checkpoints", clock, had, mean,
                        self.order.text)

    def _until(self, last: int) -> Iterator[list[int]]:
        while (at := self.trainer.position).clock <= last:
            self.trainer.say_rows(self.order.text)
            rows = self.order.at(at.clock, at.rank, at.world).rows
            if not len(rows):
                self.trainer.skip()
                continue
            if len(rows) < self.accumulate:
                raise UsageError(f"this step has {len(rows)} rows for {self.accumulate} batches",
                                 hint="set drop_last, or a larger batch_size")
            for part in np.array_split(rows, self.accumulate):
                self.trainer.batch_samples = len(rows)
                yield part.tolist()
            now = self.trainer.position
            if now.clock > at.clock + 1 and now[5:7] == at[5:7] and not self._has_warned:
                self._has_warned = True
                log.warning("rows.skipped clock=%d %d steps were made since the batch of clock %d, so the rows of the others are left out; "
                            "take a batch for each opt.step()", now.clock - 1, now.clock - at.clock, at.clock)
            if now[:1] + now[5:7] == at[:1] + at[5:7]:
                raise UsageError(f"the next batch is requested before the one of clock {at.clock} has made its step",
                                 hint="call opt.step() for each batch; use num_workers=0, or psd.Loader; and accumulate= for several "
                                      "batches a step")


class Loader:
    """torch's DataLoader of psd.Sampler's batches, which fetches ahead: `psd.Loader(data, opt, batch_size=64, num_workers=4)`.

    Its processes load the rows of the next steps, as they will be if the job goes on as it does. If it does not, because workers
    came or went, or the job went back to a checkpoint, it drops what it has loaded and starts over at the job's position. Each
    iteration is one epoch of the job, as with psd.Sampler. Further arguments are DataLoader's."""

    def __init__(self, data: Any, trainer: Trainer, batch_size: int, shuffle: bool = True, seed: int = 1, drop_last: bool = False,
                 **loader: Any) -> None:
        for name in ("batch_sampler", "sampler"):
            if name in loader:
                raise UsageError(f"psd.Loader has no {name}", hint="it chooses the rows of each batch itself, by the position of the job")
        self.data, self.trainer, self._loader = data, trainer, loader
        self.sampler = Sampler(data, trainer, batch_size, shuffle, seed, drop_last)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        trainer, last = self.trainer, self.sampler._next_epoch()
        while (at := trainer.position).clock <= last:
            trainer.say_rows(self.sampler.order.text)
            cuts = [self.sampler.order.at(clock, at.rank, at.world) for clock in range(at.clock, last + 1)]
            batches = self._load([cut.rows.tolist() for cut in cuts if len(cut.rows)])
            for clock, cut in enumerate(cuts, at.clock):
                if _course(trainer.position) != _course(at._replace(clock=clock)):
                    break
                if not len(cut.rows):
                    trainer.skip()
                    continue
                trainer.batch_samples = len(cut.rows)
                yield next(batches)
                if _course(trainer.position) == _course(at._replace(clock=clock)):
                    raise UsageError(f"the next batch is requested before the one of clock {clock} has made its step",
                                     hint="call opt.step() for each batch")

    def _load(self, rows: list[list[int]]) -> Iterator[Any]:
        from torch.utils.data import DataLoader

        return iter(DataLoader(self.data, batch_sampler=rows, **self._loader))


def _course(at: Position) -> tuple[int, ...]:
    """What a batch is cut by."""
    return at.clock, at.rank, at.world, at.incarnation, at.run


def batches(data: Any, trainer: Trainer, batch_size: int, epochs: float = 1, shuffle: bool = True, seed: int = 1,
            drop_last: bool = False) -> Iterator[Any]:
    """This worker's part of each step, for this many epochs of the job: of one array, or of each of a tuple of arrays (of numpy,
    torch, or any type whose rows can be indexed by a list of numbers). Rewinds and late joins as for Sampler."""
    parts = data if isinstance(data, tuple) else (data,)
    lengths = [_count(part) for part in parts]
    if len(set(lengths)) != 1:
        raise UsageError(f"these arrays have {', '.join(map(str, lengths))} rows", hint="give arrays of one length")
    sampler = Sampler(parts[0], trainer, batch_size, shuffle, seed, drop_last)
    n_epochs = number(epochs, "epochs")
    if not 0 <= n_epochs < 2**32:
        raise UsageError(f"epochs is {n_epochs:g}", hint="give a finite number of at least 0")
    last = round(n_epochs * sampler.order.steps)
    sampler.order.text += f", epochs {n_epochs:g}"
    if last:
        sampler._note_resumed(last)
    else:
        log.warning("epochs.done epochs=%g of %d steps each are less than a step, so there are no batches", n_epochs, sampler.order.steps)

    def cut_all() -> Iterator[Any]:
        for rows in sampler._until(last):
            try:
                cut = tuple(part[rows] for part in parts)
            except (TypeError, KeyError):  # a pandas.DataFrame takes them for names of columns
                raise UsageError(f"rows cannot be taken from {', '.join(type(part).__name__ for part in parts)} by a list of numbers",
                                 hint="give arrays of numpy or torch; of a table, table.to_numpy()") from None
            yield cut if isinstance(data, tuple) else cut[0]

    return _Batches(cut_all)


class _Batches(Iterator[Any]):
    """Batches cut by the position of the job. After an exception, such as Ctrl-C while one is cut, they go on, where a generator
    would be over."""

    def __init__(self, cut_all: Callable[[], Iterator[Any]]) -> None:
        self._cut_all = cut_all
        self._cuts = cut_all()

    def __next__(self) -> Any:
        try:
            return next(self._cuts)
        except StopIteration:
            raise
        except BaseException:
            self._cuts = self._cut_all()
            raise
