"""Plugin `pointcloud`: networks of points, rendered views, shapes as data, distillation into point clouds."""

from __future__ import annotations

import mmkd


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.encoder(
        "pointnet", "mmkd_pointcloud.pointnet:PointNet", paper="PointNet", url="https://arxiv.org/abs/1612.00593"
    )
    registry.encoder(
        "pointnet2", "mmkd_pointcloud.pointnet2:PointNet2", paper="PointNet++", url="https://arxiv.org/abs/1706.02413"
    )
    registry.encoder("dgcnn", "mmkd_pointcloud.dgcnn:DGCNN", paper="DGCNN", url="https://arxiv.org/abs/1801.07829")
    registry.encoder(
        "transformer",
        "mmkd_pointcloud.transformer:PointTransformer",
        paper="Point Transformer",
        url="https://arxiv.org/abs/2012.09164",
    )
    registry.encoder("projection", "mmkd_pointcloud.projection:Projection")
    registry.encoder("view_net", "mmkd_pointcloud.view_net:ViewNet")
    registry.loss("orthogonality", "mmkd_pointcloud.orthogonality:Orthogonality", paper="PointNet")
    registry.loss(
        "local_graph",
        "mmkd_pointcloud.local_graph:LocalGraph",
        paper="PointDistiller",
        url="https://arxiv.org/abs/2205.11098",
    )
    registry.loss(
        "part_distill",
        "mmkd_pointcloud.part_distill:PartDistill",
        paper="PartDistill",
        url="https://arxiv.org/abs/2312.04016",
    )
    registry.loss("view_cross_entropy", "mmkd_pointcloud.view_cross_entropy:ViewCrossEntropy")
    registry.curator("jitter_scale_rotate", "mmkd_pointcloud.jitter:JitterScaleRotate")
    registry.curator("drop", "mmkd_pointcloud.drop:Drop", paper="PointNet++")
    registry.metric("part_iou", "mmkd_pointcloud.part_iou:PartIoU")
    registry.dataset("shapes", "mmkd_pointcloud.shapes:Shapes")
    registry.dataset("folder", "mmkd_pointcloud.folder:Folder")
    registry.dataset("modelnet", "mmkd_pointcloud.modelnet:ModelNet", paper="ModelNet")
    registry.dataset("shapenet_part", "mmkd_pointcloud.shapenet_part:ShapeNetPart", paper="ShapeNet parts")
    registry.recipe("named_shapes", "mmkd_pointcloud:recipes/named_shapes.yaml")
    registry.recipe(
        "ulip", "mmkd_pointcloud:recipes/ulip.yaml", paper="ULIP", url="https://arxiv.org/abs/2212.05171",
        needs=("mmkd-vision-language",),
    )  # fmt: skip
    registry.recipe("view_teacher", "mmkd_pointcloud:recipes/view_teacher.yaml")
    registry.recipe("part_distill", "mmkd_pointcloud:recipes/part_distill.yaml", paper="PartDistill")
    registry.recipe("point_distiller", "mmkd_pointcloud:recipes/point_distiller.yaml", paper="PointDistiller")
