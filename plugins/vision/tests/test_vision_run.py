import pytest
import timm
import torch
from PIL import Image

import mmkd


class Pictures(mmkd.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"image": Image.effect_noise((40, 32), 60).convert("RGBA"), "label": index % 3, "key": str(index)}


RECIPE = {
    "teacher": {"use": "vision.timm", "model": "test_vit", "num_classes": 3, "image_size": 32},
    "student": {"use": "vision.convnet", "widths": [4, 8], "dim": 6, "num_classes": 3},
    "projectors": {"up": {"use": "core.linear", "input": "student.embedding", "like": "teacher.embedding"}},
    "losses": {
        "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"},
        "feature": {"use": "core.mse", "student": "up", "teacher": "teacher.embedding"},
    },
    "data": {"batch_size": 4, "curators": [{"use": "vision.augment", "flip": 0.5, "scale": [0.8, 1.2]}]},
    "train": {"steps": 2},
}


def test_teacher_student_and_augmentation_in_one_run(tmp_path):
    mmkd.distill(RECIPE, output_dir=tmp_path / "run", data={"train": Pictures(), "eval": Pictures()})
    exported = mmkd.from_pretrained(tmp_path / "run")
    embedding = exported.values(exported.collate([Pictures()[0]]), ["student.embedding"])["student.embedding"]
    assert embedding.shape == (1, 6)


def test_hidden_values_are_read_by_the_host():
    recipe = {
        **RECIPE,
        "projectors": {"hint": {"use": "core.linear", "input": "student.hidden.-1", "like": "student.hidden.-1"}},
        "losses": {
            "hint": {"use": "core.mse", "student": "hint", "teacher": "detach(student.tokens)"},
            "guide": {"use": "core.mse", "student": "teacher.hidden.-1", "teacher": "teacher.hidden.0"},
        },
    }
    graph = mmkd.build(recipe, data={"train": Pictures()})
    batch = graph.collate([Pictures()[i] for i in range(4)])
    values = graph.values(batch, ["teacher.hidden.-1", "student.hidden.2", "student.tokens"])
    assert values["teacher.hidden.-1"].shape == (4, 5, 64)
    torch.testing.assert_close(values["student.hidden.2"], values["student.tokens"])


def test_attention_maps_and_a_pretrained_student_in_one_run(tmp_path):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=32).state_dict(), tmp_path / "vit.pth")
    vit = {"use": "vision.timm", "model": "test_vit", "num_classes": 0, "image_size": 32}
    recipe = {
        "teacher": vit,
        "student": {**vit, "pretrained": str(tmp_path / "vit.pth"), "freeze_norm": True},
        "losses": {"map": {"use": "core.mse", "student": "student.attention.-1", "teacher": "teacher.attention.2"}},
        "data": {"batch_size": 4},
        "train": {"steps": 2},
    }
    with pytest.raises(mmkd.MmkdError, match="does not fit VisionTransformer: pos_embed"):
        mmkd.build(recipe, data={"train": Pictures()})
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    mmkd.distill(recipe, output_dir=tmp_path / "run", data={"train": Pictures()})
    exported = mmkd.from_pretrained(tmp_path / "run")
    values = exported.values(exported.collate([Pictures()[0]]), ["student.attention.5", "student.hidden.-1"])
    assert values["student.attention.5"].shape == (1, 2, 5, 5)
    assert values["student.hidden.-1"].shape == (1, 5, 64)
