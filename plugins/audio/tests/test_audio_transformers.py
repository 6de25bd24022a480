"""Networks of transformers, tiny and with random weights, beside transformers itself."""

import copy

import numpy as np
import pytest
import sounds
import torch
import transformers
from mmkd_audio.clap import Clap
from mmkd_audio.transformers import SoundEncoder

from mmkd.errors import DataError, GraphError, MmkdError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp(name) for name in ("wav2vec2", "hubert", "wavlm", "whisper", "ast", "clap")}
    for family in ("wav2vec2", "hubert", "wavlm"):
        sounds.waves(made[family], family, attention_mask=family != "hubert")
    sounds.whisper(made["whisper"])
    sounds.ast(made["ast"])
    sounds.clap(made["clap"])
    return {name: str(path) for name, path in made.items()}


def run(encoder, samples, wanted=None):
    with torch.no_grad(), encoder.reading(wanted):
        return encoder(**encoder.collate([encoder.transform(sample) for sample in samples]))


def first(output):
    return output[0] if isinstance(output, tuple) else output


def heard(sample):
    return sample["audio"]["array"]


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # WavLM's own
def test_waveform_networks_are_transformers_own(family, folders):
    encoder = SoundEncoder(folders[family]).eval()
    lengths = (4000,) if family == "hubert" else (4000, 2600)  # padded without a mask, transformers scales it otherwise
    samples = sounds.samples(*lengths)
    made = run(encoder, samples)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders[family])
    network = transformers.AutoModel.from_pretrained(folders[family]).eval()
    inputs = extractor([heard(s) for s in samples], sampling_rate=16_000, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = network(**inputs, output_hidden_states=True)
    sizes = [int(network._get_feat_extract_output_lengths(n)) for n in lengths]
    assert made["mask"].sum(1).tolist() == sizes
    for i, size in enumerate(sizes):
        assert torch.allclose(made["tokens"][i, :size], wanted.last_hidden_state[i, :size], atol=1e-5)
        assert torch.allclose(made["embedding"][i], made["tokens"][i, :size].mean(0), atol=1e-5)
    assert encoder.values()[-4:] == [f"hidden.{i}" for i in range(4)]
    assert encoder.lengths(samples=torch.tensor(lengths))["hidden.1"].tolist() == sizes


def test_hidden_states_are_transformers_own(folders):
    encoder = SoundEncoder(folders["wav2vec2"]).eval()
    found = {}
    for i in range(4):
        path = encoder.locate(f"hidden.{i}")
        module = encoder.network.get_submodule(".".join(path.split(".")[:3]))
        if path.endswith(".input"):
            module.register_forward_pre_hook(
                lambda m, args, named, i=i: found.update({i: [*args, *named.values()][0]}), with_kwargs=True
            )
        else:
            module.register_forward_hook(lambda m, a, out, i=i: found.update({i: first(out)}))
    (sample,) = sounds.samples(3000)
    fields = encoder.collate([encoder.transform(sample)])
    with torch.no_grad():
        wanted = encoder.net(
            fields["input_values"], attention_mask=fields["attention_mask"], output_hidden_states=True
        ).hidden_states
        run(encoder, [sample])
    for i in range(3):  # of the last, transformers gives what the final norm makes
        assert torch.allclose(found[i], wanted[i], atol=1e-6)


def test_times_are_the_centres_of_what_a_frame_sees(folders):
    """The slope of a frame by the waveform is not zero around its time, and nowhere else."""
    encoder = SoundEncoder(folders["wav2vec2"]).eval()
    wave = torch.randn(1, 400, requires_grad=True)
    features = encoder.net.feature_extractor
    features.conv_layers[0].layer_norm = torch.nn.Identity()  # norms see more, or nothing but a scale
    features.conv_layers[1].layer_norm = torch.nn.Identity()
    (slope,) = torch.autograd.grad(features(wave)[0, :, 7].sum(), wave)
    seen = slope[0].nonzero().flatten()
    times = run(encoder, sounds.samples(4000))["times"][0]
    assert float(seen.min() + seen.max()) / 2 / 16_000 == pytest.approx(float(times[7]) / 1e6, abs=1e-6)
    assert encoder.frame_rate == 16_000 / 20


def test_whisper_is_its_encoder(folders):
    encoder = SoundEncoder(folders["whisper"]).eval()
    samples = sounds.samples(5_000, 16_000, 400)
    made = run(encoder, samples)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders["whisper"])
    network = transformers.AutoModel.from_pretrained(folders["whisper"]).get_encoder().eval()
    inputs = extractor([heard(s) for s in samples], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        wanted = network(inputs["input_features"]).last_hidden_state
    assert torch.allclose(made["tokens"], wanted, atol=1e-5)
    assert made["mask"].sum(1).tolist() == [16, 50, 2] and encoder.frame_rate == 50
    assert made["times"][0, :3].tolist() == [0, 20_000, 40_000]
    assert "logits" not in encoder.values() and not [n for n, _ in encoder.net.named_parameters() if "decoder" in n]


def test_ast_pools_by_itself(folders):
    encoder = SoundEncoder(folders["ast"]).eval()
    samples = sounds.samples(8_000, 3_000)
    made = run(encoder, samples)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders["ast"])
    network = transformers.AutoModel.from_pretrained(folders["ast"]).eval()
    inputs = extractor([heard(s) for s in samples], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        wanted = network(**inputs)
    assert torch.allclose(made["embedding"], wanted.pooler_output, atol=1e-5)
    assert torch.allclose(made["tokens"], wanted.last_hidden_state, atol=1e-5)
    assert encoder.frame_rate is None and "mask" not in encoder.values()


def test_fewer_layers_are_the_first_ones_and_random_masking_is_off(folders):
    whole, half = SoundEncoder(folders["wavlm"]), SoundEncoder(folders["wavlm"], config={"num_hidden_layers": 1})
    assert len(half.net.encoder.layers) == 1
    pairs = zip(whole.net.encoder.layers[0].parameters(), half.net.encoder.layers[0].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    config = whole.net.config
    assert not config.apply_spec_augment and config.layerdrop == 0
    assert SoundEncoder(folders["wavlm"], config={"layerdrop": 0.3}).net.config.layerdrop == 0.3


def test_what_cannot_be_read_is_an_error(folders, tmp_path):
    with pytest.raises(DataError, match="fewer than one frame"):
        SoundEncoder(folders["hubert"]).transform({"audio": sounds.sound(12)})
    with pytest.raises(MmkdError, match=r"use: audio\.clap"):
        SoundEncoder(folders["clap"])
    with pytest.raises(MmkdError, match=r"use: audio\.transformers"):
        Clap(folders["hubert"])
    with pytest.raises(MmkdError, match="needs 'pretrained'"):
        SoundEncoder()
    transformers.HubertConfig(**sounds.LAYERS, **sounds.CONV).save_pretrained(tmp_path)
    with pytest.raises(MmkdError, match=r"no preprocessor_config\.json"):
        SoundEncoder(model=str(tmp_path))
    with pytest.raises(GraphError, match="a 'hubert' needs input_values"):
        SoundEncoder(folders["hubert"])(samples=torch.tensor([4000]))
    with pytest.raises(MmkdError, match="not the file that was pinned"):
        SoundEncoder(folders["hubert"], sha256="0" * 64)


@pytest.mark.parametrize("fusion", [False, True])
def test_clap_is_transformers_own(fusion, tmp_path):
    folder = sounds.clap(tmp_path, fusion)
    encoder = Clap(folder).eval()
    samples = sounds.samples(16_000, 5_000, 900)
    made = run(encoder, samples)
    network = transformers.ClapModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = extractor([heard(s) for s in samples], sampling_rate=16_000, return_tensors="pt")
    short = torch.zeros(3, 1, dtype=torch.bool)
    words = tokenizer([s["text"] for s in samples], padding=True, return_tensors="pt")
    with torch.no_grad():
        audio = network.get_audio_features(input_features=inputs["input_features"], is_longer=short).pooler_output
        text = network.get_text_features(words["input_ids"], attention_mask=words["attention_mask"]).pooler_output
    assert torch.allclose(made["audio.embedding"], audio, atol=1e-5)
    assert torch.allclose(made["text.embedding"], text, atol=1e-5)
    assert made["audio.embedding"].norm(dim=1).allclose(torch.ones(3))


def test_clap_hears_the_beginning_of_a_long_sound_and_draws_nothing(tmp_path):
    encoder = Clap(sounds.clap(tmp_path)).eval()
    (sample,) = sounds.samples(50_000)
    state = np.random.get_state()[1].copy()
    long = encoder.transform(sample)["input_features"]
    assert (np.random.get_state()[1] == state).all()
    assert torch.equal(long, encoder.transform(sample)["input_features"])
    first = {**sample, "audio": {**sample["audio"], "array": heard(sample)[:16_000]}}
    assert torch.equal(long, encoder.transform(first)["input_features"])


def test_a_tower_of_clap_that_nobody_reads_asks_for_nothing(folders):
    encoder = Clap(folders["clap"]).eval()
    assert set(run(encoder, [{"text": "a dog"}], frozenset({"text.embedding"}))) == {
        "text.embedding", "text.tokens", "text.mask"
    }  # fmt: skip
    assert set(run(encoder, [{"audio": sounds.sound(3000)}], frozenset({"audio.embedding"}))) == {
        "audio.embedding", "audio.tokens"
    }  # fmt: skip
    with pytest.raises(DataError, match="that others lack"):
        run(encoder, [{"text": "a dog", "audio": sounds.sound(3000)}, {"text": "rain"}])


def gradients(encoder, samples):
    """Of every weight, under the dropout of one seed; and what the network gave."""
    torch.manual_seed(0)
    values = encoder(**encoder.collate([encoder.transform(sample) for sample in samples]))
    values["tokens"].square().sum().backward()
    return {n: p.grad for n, p in encoder.net.named_parameters() if p.grad is not None}, values["tokens"].detach()


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
@pytest.mark.parametrize("share", [0.25, 0.1])
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # WavLM's own
def test_a_share_of_the_gradient_reaches_the_convolutions(family, share, folders):
    """A quarter of it to the last bit, since it is a power of two; the rest of the network has all of it."""
    plain, plainly = gradients(SoundEncoder(folders[family]).train(), sounds.samples(4000, 2600))
    encoder = copy.deepcopy(SoundEncoder(folders[family], feature_grad=share)).train()
    scaled, output = gradients(encoder, sounds.samples(4000, 2600))
    assert torch.equal(output, plainly) and scaled.keys() == plain.keys()
    convolutions = [name for name in plain if name.startswith("feature_extractor.")]
    assert len(convolutions) >= 2
    for name, gradient in plain.items():
        if name not in convolutions:
            assert torch.equal(scaled[name], gradient)
        elif share == 0.25:
            assert torch.equal(scaled[name], share * gradient)
        else:
            assert torch.allclose(scaled[name], share * gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_no_gradient_freezes_the_convolutions(folders):
    plain, plainly = gradients(SoundEncoder(folders["hubert"]).train(), sounds.samples(4000, 2600))
    encoder = SoundEncoder(folders["hubert"], feature_grad=0).train()
    frozen, output = gradients(encoder, sounds.samples(4000, 2600))
    assert torch.equal(output, plainly)
    assert set(plain) - set(frozen) == {name for name in plain if name.startswith("feature_extractor.")}
    assert all(torch.equal(frozen[name], plain[name]) for name in frozen)
    assert not any(p.requires_grad for p in encoder.net.feature_extractor.parameters())


def test_a_share_of_the_gradient_changes_nothing_without_gradient(folders):
    samples = sounds.samples(4000, 2600)
    plain, scaled = (SoundEncoder(folders["wav2vec2"], feature_grad=share).eval() for share in (1, 0.1))
    assert all(torch.equal(value, run(scaled, samples)[name]) for name, value in run(plain, samples).items())


def test_the_last_feed_forward_layer_has_no_dropout_where_it_is_to_be_still(folders):
    noisy = {"activation_dropout": 0.5, "hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0}
    one = {**noisy, "num_hidden_layers": 1}
    samples = sounds.samples(4000)

    def twice(**options):
        encoder = SoundEncoder(folders["wav2vec2"], **options).train()
        first, second = (run(encoder, samples)["tokens"] for _ in range(2))
        return torch.equal(first, second)

    assert twice(config=one, last_dropout=False) and not twice(config=one)
    assert not twice(config=noisy, last_dropout=False), "the blocks before it keep theirs"


@pytest.mark.parametrize("family", ["whisper", "ast"])
@pytest.mark.parametrize("option", [{"feature_grad": 0.1}, {"feature_grad": 0}, {"last_dropout": False}])
def test_options_of_waveform_networks_are_errors_elsewhere(family, option, folders):
    with pytest.raises(MmkdError, match="no convolutions over a waveform") as error:
        SoundEncoder(folders[family], **option)
    assert error.value.where in option and folders[family] in error.value.what and "hubert" in error.value.exists
    (name,) = option
    assert error.value.next.startswith(f"{name}: ")


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "ast"])
def test_it_is_saved_as_transformers_does(family, tmp_path, monkeypatch):
    folder = sounds.ast(tmp_path / "net") if family == "ast" else sounds.waves(tmp_path / "net", family)
    encoder = SoundEncoder(folder).eval()
    (tmp_path / "saved").mkdir()
    code = encoder.export(tmp_path / "saved", *encoder.formats())
    wave = sounds.write(tmp_path / "saved" / "sound.wav", 4000, subtype="FLOAT")
    monkeypatch.chdir(wave.parent)
    names = {}
    exec(code, names)
    expected = encoder(**encoder.collate([encoder.transform({"audio": sounds.sound(4000)})]))
    for name, value in names["values"].items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)


def test_the_encoder_of_whisper_is_no_model_of_transformers(tmp_path):
    assert SoundEncoder(sounds.whisper(tmp_path)).formats() == []
