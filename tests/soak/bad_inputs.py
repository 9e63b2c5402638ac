"""What users type wrongly: each command must end with exit code 2 and one line that says what, and what to do."""

import io
import json
import shlex
import shutil
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from dynamics import cli
from dynamics.cli import experiments
from dynamics.presets import PRESETS

TRAIN = "train digits-meanflow --out x"
COMMANDS = [
    "nonsense",
    "train --out x",
    "train nonsense --out x",
    "train digits-meanflow",
    "train digits-meanflow --out",
    "train folder --out x",
    f"{TRAIN} --bla",
    f"{TRAIN} --bla 3",
    f"{TRAIN} surplus",
    f"{TRAIN} --seed 1.5",
    f"{TRAIN} --seed",
    f"{TRAIN} --training.num-steps 0",
    f"{TRAIN} --training.num-steps many",
    f"{TRAIN} --training.num-threads -1",
    f"{TRAIN} --training.learning-rate nan",
    f"{TRAIN} --training.learning-rate 1e999",
    f"{TRAIN} --training.betas 0.9",
    f"{TRAIN} --training.betas 0.9 1.5",
    f"{TRAIN} --training.ema-decays",
    f"{TRAIN} --training.accumulation 3",
    f"{TRAIN} --training.device cuda",
    f"{TRAIN} --training.device tpu",
    f"{TRAIN} --training.batch-size 100000000000000",
    f"{TRAIN} --times.gap-share 2",
    f"{TRAIN} --times.law.kind gaussian",
    f"{TRAIN} --times.law.kind uniform_gap --times.law.low 0.5 --times.law.high 0.1",
    f"{TRAIN} --model.patch-size 3",
    f"{TRAIN} --model.heads 3",
    f"{TRAIN} --model.kind mlp --model.depth 0",
    f"{TRAIN} --data.name cifar",
    f"{TRAIN} --data.name npz",
    f"{TRAIN} --data.name npz --data.path file",
    f"{TRAIN} --data.name npz --data.path missing",
    f"{TRAIN} --data.name folder --data.path folder",
    f"{TRAIN} --data.name latents --data.path folder",
    f"{TRAIN} --observe",
    f"{TRAIN} --observe gapz",
    f"{TRAIN} --observe cells cells",
    f"{TRAIN} --observe cells:rows=3",
    f"{TRAIN} --observe cells:every=3/4",
    f"{TRAIN} --observe gaps:every=0",
    f"{TRAIN} --observe gaps:t_edges=0.5/0.1",
    f"{TRAIN} --observe gaps:weights=a/b",
    f"{TRAIN} --curriculum beta beta",
    f"{TRAIN} --curriculum gap_law gap_law:start=0.2",
    f"{TRAIN} --curriculum beta:k=much",
    f"{TRAIN} --curriculum gap_law:start=0.9,end=0.1",
    f"{TRAIN} --wall-minutes -1",
    f"{TRAIN} --start.run 0123456789ab",
    "train digits-flow-matching --out x --times.gap-share 0.5",
    "train digits-meanflow --out file",
    "train digits-meanflow --out file/below",
    "train digits-meanflow --out /proc/below",
    f"train digits-meanflow --out {'x' * 300}",
    "train broken.json --out x",
    "train deep.json --out x",
    "train not-text.json --out x",
    "train unknown.json --out x",
    "train wrong.json --out x",
    "train other-kind.json --out x",
    "train of-a-member.json --out x",
    "train list.json --out x",
    "plan nonsense",
    "plan b4-improved --gpus 7",
    "plan b4-improved --gpu voodoo",
    "plan b4-improved --utilisation 1.5",
    "plan broken.json",
    "evaluate",
    "evaluate missing",
    "evaluate file",
    "evaluate folder --nfe x",
    "evaluate folder --field w",
    "evaluate folder --field u --method heun",
    "evaluate folder --reference file",
    "evaluate folder --fid --inception file",
    "evaluate broken-run",
    "evaluate unfinished --num-samples 100000000000",
    "probe missing",
    "probe folder --gap-edges -1 2",
    "probe unfinished --instruments gaps --gap-edges -1 2",
    "probe unfinished --instruments gapz",
    "probe unfinished --loss square",
    "report missing --out y",
    "report folder --out file",
    "report --out y",
    "demo --out file",
    "demo --num-steps 0 --out y",
    "demo --num-steps many",
    "encode missing --out y --vae file",
    "encode folder --out y --vae file",
    "encode folder --out y --vae folder --shard 3/2",
    "statistics missing --inception file --out y.npz",
    "statistics folder --inception file --out y.txt",
    "statistics folder --inception folder --out y.npz",
    "import missing --from sit --out y",
    "import file --from sit --out y",
    "import folder --from sit --out y",
    "import file --from edm --out y",
    "export missing y --to sit",
    "export unfinished y --to edm",
    "doctor --bla",
]
OF_EXPERIMENTS = [
    "nonsense plan",
    "gap_ablation nonsense",
    "gap_ablation plan --scale huge",
    "gap_ablation plan --bla",
    "gap_ablation logs",
    "gap_ablation logs 0123 --results folder",
    "gap_ablation submit --only 0123 --results folder",
    "gap_ablation submit --cluster cloud --results folder",
    "gap_ablation report --results folder",
    "gap_ablation collect --results file",
    "findings --results missing",
    "findings --scale huge",
]
OF_A_RUN = [
    "train run/config.json --out run --seed 5",
    "evaluate run --field u --method heun",
    "evaluate run --nfe",
    "evaluate run --nfe 0",
    "evaluate run --nfe 3 --field v --method heun",
    "evaluate run --num-samples 0",
    "evaluate run --num-samples 100000000000000",
    "evaluate run --weights average",
    "evaluate run --checkpoint 7000",
    "evaluate run --exact-rows -1",
    "evaluate run --fid --inception file --reference file",
    "probe run --checkpoint 7000",
    "probe run --instruments cells",
    "probe run --instruments gaps gaps",
    "probe run --num-splits 1",
    "probe run --rows-per-split 100000000000000",
    "probe run --sketch-size 0",
    "report run --out file",
    "report run --out file/below",
    "report run --out /proc/below",
    "report run run --out y",
    "report run --out y --baseline other",
    "export run y --to sit",
    "export run file/below --to meanflow-pytorch",
]
"""Of a finished run in the folder `run`."""
INPUTS = [("dynamics", words) for words in COMMANDS + OF_A_RUN] + [("experiments", words) for words in OF_EXPERIMENTS]


def prepare(folder: Path, run: Path | None = None) -> None:
    """Make the files that the inputs name; those of OF_A_RUN work on a copy of a finished run."""
    if run is not None:
        shutil.copytree(run, folder / "run")
    folder.mkdir(exist_ok=True)
    (folder / "folder").mkdir()
    (folder / "file").write_text("nothing of interest\n")
    (folder / "broken.json").write_text('{"seed": ')
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "not-text.json").write_bytes(b"\xff\xfe\x00")
    (folder / "list.json").write_text("[]")
    (folder / "unknown.json").write_text('{"training": {"num_stepz": 3}}')
    (folder / "wrong.json").write_text('{"training": {"num_steps": "many"}}')
    (folder / "other-kind.json").write_text('{"model": {"kind": "transformer"}}')
    (folder / "of-a-member.json").write_text('{"model": {"kind": "dit", "dims": 3}}')
    for name, text in (("unfinished", json.dumps(PRESETS["digits-meanflow"].complete())), ("broken-run", "{")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)


def outcome(program: str, words: str, folder: Path) -> tuple[int, str]:
    """Return exit code and stderr of a command that runs in a folder, in this process; errors of Python pass."""
    said = io.StringIO()
    with chdir(folder), redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            if program == "dynamics":
                cli.main(shlex.split(words))
            else:
                experiments.main(program, shlex.split(words))
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
    return 0, said.getvalue()


def complaint(code: int, said: str) -> str:
    """Return what is wrong with the end of a command, nothing if it is as it must be."""
    lines = said.splitlines()
    if code != 2:
        return f"exit code {code}: {said}"
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"not one line: {said}"
    return "" if all(word in said for word in (": received ", "; allowed: ", "; remedy: ")) else said
