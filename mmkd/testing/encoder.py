"""What an encoder must be."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd import MmkdError
from mmkd.graph.collate import Collator
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.tap import Recorder, Tap, Weight, locate
from mmkd.testing.module import MODULE, ModuleCase, gradients, refuses_to_build
from mmkd.testing.probe import NotApplicable, ProbeFailure, Probes, ask, require
from mmkd.testing.sameness import difference, mapped
from mmkd.testing.samples import another, fields, samples as any_samples
from mmkd.testing.specimen import Specimen, seeded
from mmkd.testing.surroundings import TORCH_RANDOM, changed, surroundings

TOLERANCE = 1e-3
CAPABILITIES = frozenset({"text", "top_k", "logits", "hidden", "attention", "input_grad", "generate"})


class EncoderCase(ModuleCase):
    """An encoder in evaluation mode, raw samples for it, and the batch that it makes of them."""

    evaluates = True

    def __init__(self, specimen: Specimen, samples: Sequence[Mapping[str, Any]] | None) -> None:
        super().__init__(specimen, {})
        self.given = list(samples or any_samples())

    @property
    def samples(self) -> list[Mapping[str, Any]]:
        """Copies, so that a transform that writes into them is found by the probe that is about it."""
        return copy.deepcopy(self.given)

    def batch(self, encoder: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `forward` is given for these samples."""
        node = Node("network", encoder, trained=False)
        return NodeRun(node, "", [], {}).given(Collator([node])(samples))

    def values(self, encoder: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What is published for these samples, located values included."""
        return self.read(encoder, self.batch(encoder, samples))

    def located(self, encoder: Any) -> dict[str, Tap | Weight]:
        """The places of the values that `locate` places; a parameter (a learnt scale) is nobody's sample."""
        paths = {name: encoder.locate(name) for name in encoder.values()}
        return {name: locate(encoder.network, path, 0, name, name) for name, path in paths.items() if path is not None}

    def read(self, encoder: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """All published values, located ones read the way the host does, and anything else that `forward` returns."""
        found = self.located(encoder).values()
        taps = [tap for tap in found if isinstance(tap, Tap)]
        recorder = Recorder(taps)
        wanted = frozenset([*encoder.values(), *(f"/{tap.path}" for tap in taps)])
        try:
            with seeded(0), encoder.reading(wanted):
                output, read = recorder.record(lambda: encoder(**self.arguments(inputs)), stop=False)
        finally:
            recorder.close()
        require(isinstance(output, Mapping), f"forward returns {type(output).__name__}, not values by name")
        return {**output, **read}

    def run(self, module: Any, inputs: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
        return self.read(module, self.inputs if inputs is None else inputs)


ENCODER = Probes()


@ENCODER("give every option a default, or options={...} and samples=[...] to the check", first=True)
def makes_a_batch(case: EncoderCase) -> None:
    """Nothing else can be said of an encoder that takes no sample."""
    refuses_to_build(case.specimen)
    encoder = case.fresh()
    case.inputs = case.batch(encoder, case.samples)
    case.run(encoder)


BEFORE = ENCODER.copy()
ENCODER.clear()


@ENCODER("return from forward, or locate, every name in values(), and list there every name that forward returns")
def values_published(case: EncoderCase) -> None:
    """Recipes are checked against values(): what it hides cannot be used, what it invents stops a run."""
    encoder = case.fresh()
    listed, made = list(encoder.values()), case.run(encoder)
    require(len(set(listed)) == len(listed), f"values() lists a name twice: {listed}")
    weights = {name for name, place in case.located(encoder).items() if isinstance(place, Weight)}
    missing, hidden = set(listed) - made.keys() - weights, made.keys() - set(listed)
    require(not missing, f"lists and does not publish {', '.join(sorted(missing))}")
    require(not hidden, f"publishes and does not list {', '.join(sorted(hidden))}")
    odd = [name for name, value in made.items() if not isinstance(value, Tensor)]
    require(not odd, f"not tensors: {', '.join(odd)}")


@ENCODER("give the path, inside `network`, of the module whose output is this value")
def located_where_it_is(case: EncoderCase) -> None:
    """The host reads a located value with a hook and stops there: it must be the one that forward would return."""
    encoder = case.fresh()
    located = [name for name, place in case.located(encoder).items() if isinstance(place, Tap)]
    if not located:
        raise NotApplicable
    with seeded(0):
        returned = encoder(**case.arguments(case.inputs))
    read = case.run(encoder)
    for name in set(located) & returned.keys():
        found = difference(returned[name], read[name], tolerance=1e-5)
        require(not found, f"'{name}' at {encoder.locate(name)} is not what forward returns: {found}")


@ENCODER("[B, D] embedding, [B, C] or [B, T, C] logits, [B, L, D] or [B, C, H, W] tokens and hidden.<i> from 0")
def layouts(case: EncoderCase) -> None:
    """Losses and projectors go by the names: what an embedding is, is not looked at again."""
    encoder = case.fresh()
    made, size = case.run(encoder), len(case.samples)
    dims = {"embedding": (2,), "logits": (2, 3), "tokens": (3, 4), "hidden": (3, 4), "attention": (4,)}
    indices: dict[str, list[int]] = {}
    for name, value in made.items():
        kind = re.sub(r"\.\d+$", "", name)
        stem, last = kind, kind.rpartition(".")[2]
        require(value.dim() and len(value) == size, f"'{name}' is {list(value.shape)} for {size} samples")
        if last in dims:
            require(value.dim() in dims[last], f"'{name}' is {list(value.shape)}")
        if kind != name:
            indices.setdefault(stem, []).append(int(name.rpartition(".")[2]))
    for stem, found in indices.items():
        wanted = list(range(len(found)))
        require(sorted(found) == wanted, f"'{stem}' has the numbers {sorted(found)}, not 0 to {len(found) - 1}")
    classes = getattr(encoder, "num_classes", None) or case.specimen.given.get("num_classes")
    if classes and "logits" in made:
        require(made["logits"].shape[-1] == classes, f"logits are {list(made['logits'].shape)} for {classes} classes")
    width = getattr(encoder, "embedding_dim", None)
    if width and "embedding" in made:
        require(
            made["embedding"].shape[-1] == width, f"embedding_dim is {width}, embedding {list(made['embedding'].shape)}"
        )


@ENCODER("honour `self.wanted` (or `self.wants(prefix)`), and return at least what it names and locate does not place")
def wanted_is_given(case: EncoderCase) -> None:
    """The host asks for what the losses read; the value must be there, and be the same as when all is asked for."""
    encoder = case.fresh()
    everything = case.run(encoder)
    for name in encoder.values():
        if encoder.locate(name) is None:
            with encoder.reading(frozenset({name})), seeded(0):
                inputs = case.batch(encoder, case.samples)
                made = encoder(**inputs)
            require(name in made, f"'{name}' is wanted alone and is not returned")
            found = difference(everything[name], made[name], tolerance=TOLERANCE)
            require(not found, f"'{name}' is another when it is wanted alone: {found}")


@ENCODER("copy before writing: image.convert(...) returns a new picture, arrays need .copy()")
def sample_untouched(case: EncoderCase) -> None:
    """Teacher and student read the same raw sample, one after the other."""
    encoder, samples = case.fresh(), case.samples
    for sample in samples:
        encoder.transform(sample)
    found = difference(case.given, samples)
    require(not found, f"transform wrote into the raw sample: {found}")


@ENCODER("compute from the sample alone; random changes are a curator's")
def transform_pure(case: EncoderCase) -> None:
    """All networks must see the same draw, and a resumed run the same input."""
    encoder = case.fresh()
    encoder.train()
    before = surroundings()
    for sample in case.samples:
        first = encoder.transform(sample)
        found = difference(first, encoder.transform(sample)) or difference(first, case.fresh().transform(sample))
        require(not found, f"the same sample is transformed differently: {found}")
    require(not changed(before, allowed=frozenset({TORCH_RANDOM})), f"transform changes {', '.join(changed(before))}")


@ENCODER("read the sample's own fields; nothing that is remembered by key, path or index")
def transform_follows_the_sample(case: EncoderCase) -> None:
    """Curators change the raw sample, and every network must see the change."""
    encoder = case.fresh()
    sample = case.samples[0]
    plain = encoder.transform(sample)
    if not plain:
        raise NotApplicable
    read, answers = _Watched(sample), []
    encoder.transform(read)
    for name in read.read & set(fields(case.samples)):
        new = next((s[name] for s in case.samples if difference(s[name], sample[name])), another(sample[name]))
        if difference(sample[name], new):
            answers.append(bool(difference(plain, encoder.transform({**sample, name: new}))))
    require(not answers or any(answers), f"changing {', '.join(sorted(read.read))} under the same key changes no input")


@ENCODER("make the key of every setting that transform depends on, or return None")
def transform_key_tells(case: EncoderCase) -> None:
    """Networks of equal keys share one transform."""
    first, second = case.fresh(), case.fresh(seed=1)
    key = first.transform_key()
    if key is None:
        raise NotApplicable
    hash(key)
    require(key == second.transform_key(), "two equal instances have different keys")
    found = difference(first.transform(case.samples[0]), second.transform(case.samples[0]))
    require(not found, f"the keys are equal, and the transforms are not: {found}")


@ENCODER("pad with a mask, normalise per sample, use BatchNorm in evaluation mode by its running statistics")
def samples_apart(case: EncoderCase) -> None:
    """A sample's values must not depend on its neighbours in the batch, nor on how far they were padded."""
    encoder = case.fresh()
    whole = case.values(encoder, case.samples)
    for i, sample in enumerate(case.samples):
        for name, value in case.values(encoder, [sample]).items():
            mine = whole[name][i : i + 1]
            if mine.shape != value.shape:  # a sequence that was padded to another length
                continue
            found = difference(mine, value, tolerance=TOLERANCE)
            require(not found, f"'{name}' of sample {i} alone is another: {found}")


@ENCODER("keep rows in the order of the batch")
def sample_order(case: EncoderCase) -> None:
    """Row i of every value belongs to sample i."""
    encoder = case.fresh()
    order = list(reversed(range(len(case.samples))))
    plain = case.values(encoder, case.samples)
    turned = case.values(encoder, [case.samples[i] for i in order])
    found = difference({name: value[order] for name, value in plain.items()}, turned, tolerance=TOLERANCE)
    require(not found, f"samples in another order give other values: {found}")


@ENCODER("compute every published value from the trained parameters, without detach or no_grad")
def gradient(case: EncoderCase) -> None:
    """A student whose value has no gradient does not learn from it."""
    encoder = case.fresh().train()
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    if not parameters:
        raise NotApplicable
    made = case.run(encoder)
    for name, value in made.items():
        if (
            value.is_floating_point()
            and not (encoder.locate(name) or "").endswith(".input")
            and not name.endswith(".0")
        ):
            slopes = gradients(value, parameters)
            require(any(s is not None for s in slopes), f"no gradient from '{name}' reaches any parameter")


@ENCODER("claim what the network gives, and no more")
def capabilities(case: EncoderCase) -> None:
    """A recipe that asks for what is not there fails when it is composed, by what is claimed here."""
    encoder = case.fresh()
    unknown = set(encoder.capabilities) - CAPABILITIES
    require(not unknown, f"unknown: {', '.join(sorted(unknown))}; there is {', '.join(sorted(CAPABILITIES))}")
    if "input_grad" in encoder.capabilities:
        inputs = mapped(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, case.inputs)
        given = [t for t in inputs.values() if isinstance(t, Tensor) and t.requires_grad]
        if given:
            slopes = gradients(case.run(encoder, inputs), given)
            require(
                any(s is not None and s.abs().max() > 0 for s in slopes), "claims input_grad; none reaches an input"
            )


@ENCODER("give the number of real entries of dimension 1, `[B]` integers, by names that values() lists")
def lengths(case: EncoderCase) -> None:
    """What lies beyond a length is left out of caches, and comes back as zero."""
    encoder = case.fresh()
    told = encoder.lengths(**case.inputs)
    if not told:
        raise NotApplicable
    unknown = set(told) - set(encoder.values())
    require(not unknown, f"{', '.join(sorted(unknown))} is no published value")
    made = case.values(encoder, case.samples)
    for name in told.keys() & made.keys():
        length, value = told[name], made[name]
        require(tuple(length.shape) == (len(value),), f"of '{name}' is {list(length.shape)}, not [{len(value)}]")
        require(value.dim() > 1, f"of '{name}', which has no dimension 1")
        require(bool(((length >= 0) & (length <= value.shape[1])).all()), f"of '{name}' goes beyond its dimension 1")


@ENCODER("hash the weights' file, or return None")
def fingerprint(case: EncoderCase) -> None:
    """What is remembered of a teacher is thrown away when its fingerprint changes."""
    first = case.fresh()
    mark = first.fingerprint()
    if mark is None:
        raise NotApplicable
    require(isinstance(mark, str) and mark, f"is {mark!r}, not text")
    case.run(first)
    require(mark == first.fingerprint() == case.fresh().fingerprint(), "is another for the same weights")


@ENCODER("say the size that transform makes")
def preprocessing(case: EncoderCase) -> None:
    """Exports and the doctor go by it."""
    encoder = case.fresh()
    told = encoder.preprocessing()
    images = [t for name, t in case.inputs.items() if name.rpartition(".")[2] == "image" and isinstance(t, Tensor)]
    if told is None or "size" not in told or not images or images[0].dim() != 4:
        raise NotApplicable
    made = list(images[0].shape[-2:])
    require(list(told["size"]) == made, f"says {list(told['size'])}, and transform makes {made}")


@ENCODER("name the field, and raise mmkd.errors.DataError or KeyError")
def missing_field(case: EncoderCase) -> None:
    """A sample without the field that is needed should be an error that names the field."""
    encoder = case.fresh()
    read = _Watched(case.samples[0])
    encoder.transform(read)
    if not read.read:
        raise NotApplicable
    try:
        encoder.transform({"key": "sample/0"})
    except (MmkdError, KeyError) as error:
        require(any(name in str(error) for name in read.read), f"the error names no field: {error}")
    except Exception as error:
        raise ProbeFailure(f"raises {type(error).__name__}: {error}") from error


class _Watched(dict[str, Any]):
    """A sample that notes which of its fields are read."""

    def __init__(self, sample: Mapping[str, Any]) -> None:
        super().__init__(sample)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def check_encoder(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    samples: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """Ask an encoder everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class or an instance.
        options: options of the class, such as the name of a small model.
        samples: raw samples; four with image, text, label and key otherwise.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    return ask(f"encoder {specimen.cls.__name__}", EncoderCase(specimen, samples), [*BEFORE, *MODULE, *ENCODER])
