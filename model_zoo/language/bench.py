"""On-policy and sequence-level distillation of a language model, on a toy translation; writes `results.json`.

One student is trained on labels, then goes on from there by each method for the same number of steps, as in the paper
of GKD. `python model_zoo/language/bench.py --seeds 0 1 2`: three minutes a seed on one core.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmkd_language.bleu import corpus_bleu
from mmkd_language.causal_lm import CausalLM, words
from mmkd_language.generated import Generated
from mmkd_language.toy_translation import ToyTranslation

import mmkd

DATA, TEST = ToyTranslation(4000, seed=0), ToyTranslation(300, seed=1, variation=0.0)
WORDS, LONGEST, BATCH = words(DATA), 12, 32
STEPS = {"teacher": 800, "start": 400, "method": 300}
PORTS = {"student": "student.logits", "teacher": "teacher.logits"}
LABELS = {"use": "core.cross_entropy", "student": "student.logits", "label": "student.labels"}
JSD = {"use": "core.jsd", "beta": 0.5, **PORTS}
ARMS: dict[str, tuple[dict[str, Any], float]] = {
    "labels": (LABELS, 0.0),
    "word_kd": ({"use": "core.kl", **PORTS}, 0.0),
    "seq_kd": (LABELS, 0.0),
    "gkd_0": (JSD, 0.0),
    "gkd_0.5": (JSD, 0.5),
    "gkd_1": (JSD, 1.0),
    "gkd_1_reverse_kl": ({"use": "core.reverse_kl", **PORTS}, 1.0),
}
"""Loss, and the fraction of completions that the student writes itself."""


def model(width: int, seed: int) -> CausalLM:
    torch.manual_seed(seed)
    return CausalLM(
        architecture="gpt2", layers=2, width=width, tokenizer=WORDS, max_length=32, max_new_tokens=LONGEST
    )  # fmt: skip


def train(
    student: CausalLM, loss: Mapping[str, Any], steps: int, rate: float, seed: int, *,
    teacher: CausalLM | None = None, data: mmkd.Dataset = DATA, fraction: float = 0.0,
) -> None:  # fmt: skip
    """Steps of AdamW with one cycle of the learning rate."""
    nodes = {"student": student, **({"teacher": teacher} if teacher is not None else {})}
    recipe = {
        **{name: {} for name in nodes},
        "losses": {"loss": {**loss, "mask": "student.completion"}},
        "data": {"curators": [{"use": "language.rollout", "fraction": fraction, "max_new_tokens": LONGEST}]},
        "train": {"steps": steps, "seed": seed},
    }
    graph = mmkd.build(recipe, nodes=nodes, data={"train": data}).train()
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(data), (BATCH,), generator=generator).tolist()
        optimizer.zero_grad()
        graph(graph.collate([data[i] for i in rows]))["loss"].backward()
        optimizer.step()
        cycle.step()
        graph.update()


@torch.no_grad()
def scores(student: CausalLM, teacher: CausalLM) -> dict[str, float]:
    """BLEU of greedy and of beam search, exact matches, and divergence from the teacher on two kinds of prefixes."""
    student.eval()
    teacher.eval()
    fields = student.collate([student.transform(TEST[i]) for i in range(len(TEST))])
    wanted = [completion for _, completion in student.text.rows(fields)]
    found = {}
    for name, beams in (("greedy_bleu", 1), ("beam_bleu", 5)):
        made = [several[0] for several in student.beams(fields, range(len(TEST)), beams, LONGEST)]
        found[name] = 100 * corpus_bleu(list(zip(made, wanted, strict=True)))
        if beams == 1:
            found["exact"] = 100 * sum(a == b for a, b in zip(made, wanted, strict=True)) / len(wanted)
    draws = torch.rand(len(TEST), LONGEST, generator=torch.Generator().manual_seed(0))
    own = student.rewritten(fields, dict(enumerate(student.generate(fields, range(len(TEST)), draws))))
    for name, batch in (("on_data", fields), ("on_own", own)):
        p, q = (net(batch["input_ids"])["logits"].log_softmax(-1) for net in (teacher, student))
        m = torch.logaddexp(p, q) - math.log(2)
        kl, jsd = (p.exp() * (p - q)).sum(-1), ((p.exp() * (p - m) + q.exp() * (q - m)) / 2).sum(-1)
        found |= {f"kl_{name}": kl[batch["completion"]].mean().item()}
        found |= {f"jsd_{name}": jsd[batch["completion"]].mean().item()}
    return found


def run(seed: int) -> dict[str, dict[str, float]]:
    """All arms of one seed."""
    teacher, start = model(64, 1000 + seed), model(32, seed)
    train(teacher, LABELS, STEPS["teacher"], 4e-3, 1000 + seed)
    train(start, LABELS, STEPS["start"], 4e-3, seed)
    found = {"teacher": scores(teacher, teacher), "start": scores(start, teacher)}
    with tempfile.TemporaryDirectory() as folder:
        for name, (loss, fraction) in ARMS.items():
            began, student = time.process_time(), copy.deepcopy(start)
            data: mmkd.Dataset = DATA
            if name == "seq_kd":
                data = Generated(DATA, teacher, f"{folder}/written.jsonl", 5, "best", LONGEST, batch_size=250)
            teaching = {} if loss is LABELS else {"teacher": teacher}
            train(student, loss, STEPS["method"], 2e-3, 100 + seed, data=data, fraction=fraction, **teaching)
            found[name] = {**scores(student, teacher), "seconds": time.process_time() - began}
            print(seed, name, {k: round(v, 3) for k, v in found[name].items()}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    runs = {str(seed): run(seed) for seed in seeds}
    first = runs[str(seeds[0])]
    summary = {
        arm: {
            name: [round(f(run[arm][name] for run in runs.values()), 4) for f in (statistics.fmean, spread)]
            for name in first[arm]
        }
        for arm in first
    }
    written = {"steps": STEPS, "seeds": seeds, "mean_and_spread": summary, "runs": runs}
    Path(__file__).with_name("results.json").write_text(json.dumps(written, indent=1) + "\n")
    for arm, numbers in summary.items():
        print(f"{arm:18}", "  ".join(f"{name} {mean:.2f} ± {wide:.2f}" for name, (mean, wide) in numbers.items()))


def spread(values: Any) -> float:
    """Standard deviation over seeds."""
    listed = list(values)
    return statistics.stdev(listed) if len(listed) > 1 else 0.0


if __name__ == "__main__":
    main()
