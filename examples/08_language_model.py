"""A language model learns from what it writes itself, judged by its teacher (GKD: Agarwal et al., 2024).

A small model has learnt a little of translating into an invented language. It goes on in three ways: from labels alone;
off-policy, reading the data's translations and shown the teacher's next words; and on-policy, reading its own
translations, mistakes included, as it will when it is used. A minute. One seed says little; `model_zoo/language` has
more.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from mmkd_language.causal_lm import CausalLM, words
from mmkd_language.generation_score import Generation
from mmkd_language.toy_translation import ToyTranslation

import mmkd

DATA, TEST = ToyTranslation(4000, seed=0), ToyTranslation(200, seed=1, variation=0.0)
WORDS, LONGEST = words(DATA), 14
LABEL = {"use": "core.cross_entropy", "student": "student.logits", "label": "student.labels"}
GKD = {"use": "core.jsd", "student": "student.logits", "teacher": "teacher.logits", "beta": 0.5}


def model(width: int, seed: int) -> CausalLM:
    """Two blocks, over the words of both languages."""
    torch.manual_seed(seed)
    return CausalLM(
        architecture="gpt2", layers=2, width=width, tokenizer=WORDS, max_length=32, max_new_tokens=LONGEST
    )  # fmt: skip


def train(loss: dict[str, Any], nodes: dict[str, Any], steps: int, lr: float, fraction: float = 0.0) -> None:
    """Steps of 32 sentences, `fraction` of which the student writes anew after their prompt."""
    recipe = {
        **{name: {} for name in nodes},
        "losses": {"loss": {**loss, "mask": "student.completion"}},
        "data": {"curators": [{"use": "language.rollout", "fraction": fraction, "max_new_tokens": LONGEST}]},
    }
    graph = mmkd.build(recipe, nodes=nodes, data={"train": DATA}).train()
    optimizer = torch.optim.AdamW(nodes["student"].parameters(), weight_decay=0.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(DATA), (32,), generator=torch.Generator().manual_seed(step)).tolist()
        out = graph(graph.collate([DATA[i] for i in rows]))  # rollouts are written here
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        cycle.step()
        graph.update()
        if (step + 1) % max(1, steps // 3) == 0:
            print(f"  step {step + 1}: loss {out['loss']:.3f}", flush=True)


def score(network: CausalLM) -> dict[str, float]:
    """BLEU and exact matches of greedy translations, the likeliest translation being the reference."""
    loss = {**LABEL, "mask": "student.completion"}
    graph = mmkd.build({"student": {}, "losses": {"loss": loss}}, nodes={"student": network}, data={"train": TEST})
    judge = Generation()
    ports = ["generated", "labels", "completion"]
    batch = graph.eval().collate([TEST[i] for i in range(len(TEST))], [f"student.{port}" for port in ports])
    values = graph.values(batch, [f"student.{port}" for port in ports])
    judge(**{port: values[f"student.{port}"] for port in ports})
    return judge.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each of the three ways")
    steps = parser.parse_args().steps

    print("training the teacher", flush=True)
    teacher, start = model(64, seed=1), model(32, seed=0)
    train(LABEL, {"student": teacher}, 4 * steps, 4e-3)
    print("training the student's beginnings", flush=True)
    train(LABEL, {"student": start}, 4 * steps // 3, 4e-3)
    rows = {"teacher": score(teacher), "student before": score(start)}
    for name, loss, fraction in (("labels alone", LABEL, 0.0), ("off-policy", GKD, 0.0), ("on-policy", GKD, 1.0)):
        print(name, flush=True)
        student = copy.deepcopy(start)
        train(loss, {"student": student, **({} if loss is LABEL else {"teacher": teacher})}, steps, 2e-3, fraction)
        rows[name] = score(student)
    print(f"{'':14}{'BLEU':>7}{'exact':>8}   of {len(TEST)} greedy translations")
    for name, scores in rows.items():
        print(f"{name:14}{100 * scores['bleu']:7.1f}{scores['exact']:8.1%}")


if __name__ == "__main__":
    main()
