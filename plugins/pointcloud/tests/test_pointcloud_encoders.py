"""What networks of points promise, and their layers beside loops over single points."""

import numpy as np
import pytest
import torch
from mmkd_pointcloud.dgcnn import DGCNN, EdgeConv
from mmkd_pointcloud.pointnet import PointNet, orthogonality
from mmkd_pointcloud.pointnet2 import PointNet2
from mmkd_pointcloud.shapes import Shapes
from mmkd_pointcloud.transformer import PointTransformer, TransformerBlock

from mmkd.errors import DataError, MmkdError

NETWORKS = {
    "pointnet": (PointNet, {"widths": [8, 16, 32]}),
    "pointnet2": (PointNet2, {"counts": [32, 8], "radii": [0.3, 0.6], "k": 8, "widths": [8, 16]}),
    "dgcnn": (DGCNN, {"k": 6, "widths": [8, 8], "pooled": 16}),
    "transformer": (PointTransformer, {"k": 6, "widths": [8, 16]}),
}
SHAPES = Shapes(per_family=1, points=128)


def network(name, **options):
    torch.manual_seed(0)
    cls, own = NETWORKS[name]
    return cls(**{"points": 128, **own, **options}).eval()


def batch(encoder, count=6):
    return encoder.collate([encoder.transform(SHAPES[i]) for i in range(count)])["points"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_order_of_points_is_no_matter(name):
    encoder = network(
        name, num_classes=4, **({"k": 128} if name == "pointnet2" else {})
    )  # a full ball takes its first k
    points = batch(encoder)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, turned = encoder(points), encoder(points[:, order])
    torch.testing.assert_close(plain["embedding"], turned["embedding"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain["logits"], turned["logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain["tokens"][:, order], turned["tokens"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_place_and_size_are_no_matter(name):
    encoder = network(name)
    sample = SHAPES[3]
    moved = {**sample, "points": sample["points"] * 7 + np.float32(3)}
    torch.testing.assert_close(
        encoder.transform(sample)["points"], encoder.transform(moved)["points"], atol=1e-4, rtol=1e-4
    )
    raw = network(name, normalize=False).transform(moved)["points"]
    assert torch.equal(raw, torch.from_numpy(moved["points"]))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_of_the_cloud_or_of_every_point(name):
    whole, each = network(name, num_classes=4), network(name, num_classes=4, per_point=True)
    points = batch(whole)
    assert whole(points)["logits"].shape == (6, 4)
    assert each(points)["logits"].shape == (6, 128, 4)
    torch.testing.assert_close(each.readout.head(each(points)["tokens"]), each(points)["logits"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_few_steps_tell_families_apart(name):
    encoder = network(name, num_classes=6).train()
    points, label = batch(encoder), torch.arange(6)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(encoder(points)["logits"], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_more_points_are_thinned_out_and_fewer_repeated():
    encoder = network("pointnet", points=64, normalize=False)
    many = encoder.transform(SHAPES[0])["points"]
    rows = {tuple(row) for row in SHAPES[0]["points"].tolist()}
    assert many.shape == (64, 3) and {tuple(row) for row in many.tolist()} < rows and len(many.unique(dim=0)) == 64
    few = encoder.transform({"points": SHAPES[0]["points"][:10]})["points"]
    assert few.shape == (64, 3) and len(few.unique(dim=0)) == 10
    assert network("pointnet", points=None).transform(SHAPES[0])["points"].shape == (128, 3)


@pytest.mark.parametrize(
    ("points", "what"),
    [
        (np.zeros((10, 3)), "lie in one place"),
        (np.ones((1, 3)), "has 1 point,"),
        (np.full((10, 3), np.nan), "10 of 10 points are not finite"),
        (np.ones((10, 2)), r"points are float64 \[10, 2\]"),
        (np.array([["a"] * 3] * 5), r"not numbers \[N, 3\]"),
    ],
)
def test_what_is_no_cloud_is_refused(points, what):
    with pytest.raises(DataError, match=what):
        network("pointnet").transform({"points": points})


def test_t_nets_begin_as_the_identity_and_are_watched():
    encoder = network("pointnet")
    values = encoder(batch(encoder))
    torch.testing.assert_close(values["feature_transform"], torch.eye(8).expand(6, 8, 8))
    torch.testing.assert_close(values["orthogonality"], torch.zeros(6))
    plain = network("pointnet", t_nets=False)
    assert not {"orthogonality", "feature_transform"} & set(plain.values())


def test_orthogonality_by_hand():
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    matrices = torch.stack([rotation, 2 * rotation, torch.zeros(3, 3, dtype=torch.float64)])
    torch.testing.assert_close(orthogonality(matrices), torch.tensor([0.0, 27.0, 3.0], dtype=torch.float64))


def test_edge_convolution_beside_a_loop():
    torch.manual_seed(0)
    layer = EdgeConv(3, 5, 4).eval().double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    found = layer(x)
    for b in range(2):
        for i in range(9):
            near = sorted(range(9), key=lambda j: float((x[b, i] - x[b, j]).norm()))[:4]
            edges = [layer.layer(torch.cat([x[b, i], x[b, j] - x[b, i]])[None])[0] for j in near]
            torch.testing.assert_close(found[b, i], torch.stack(edges).amax(0))


def test_vector_attention_beside_a_loop():
    torch.manual_seed(0)
    block = TransformerBlock(4).eval().double()
    x, p = torch.randn(1, 7, 4, dtype=torch.float64), torch.randn(1, 7, 3, dtype=torch.float64)
    near = torch.randint(0, 7, (1, 7, 3))
    y = block.before(x)[0]
    for i in range(7):
        js = near[0, i].tolist()
        delta = [block.position((p[0, i] - p[0, j])[None])[0] for j in js]
        score = torch.stack(
            [block.relation(block.query(y[i]) - block.key(y[j]) + d) for j, d in zip(js, delta, strict=True)]
        )
        value = torch.stack([block.value(y[j]) + d for j, d in zip(js, delta, strict=True)])
        out = (score.exp() / score.exp().sum(0) * value).sum(0)
        wanted = torch.relu(x[0, i] + block.after(out[None])[0])
        torch.testing.assert_close(block(x, p, near)[0, i], wanted)


def test_options_that_do_not_fit_are_named():
    with pytest.raises(MmkdError, match="1 counts, 2 radii, 2 widths"):
        PointNet2(counts=[8])
    with pytest.raises(MmkdError, match="8 points do not last for 4 levels"):
        PointTransformer(points=8)
