"""Built-in plugin `core`: losses, projectors, schedules and metrics that know no modality."""

from mmkd import Registry, hookimpl


@hookimpl
def mmkd_register(registry: Registry) -> None:
    home = "mmkd.library"
    registry.projector("linear", f"{home}.projectors.linear:LinearProjector", paper="FitNets")
    registry.projector("mlp", f"{home}.projectors.mlp:MLPProjector")

    registry.loss(
        "kl",
        f"{home}.losses.kl:KLDivergence",
        paper="Distilling the Knowledge in a Neural Network",
        url="https://arxiv.org/abs/1503.02531",
    )
    registry.loss("mse", f"{home}.losses.mse:MeanSquaredError", paper="FitNets", url="https://arxiv.org/abs/1412.6550")
    registry.loss("cosine", f"{home}.losses.cosine:CosineDistance")
    registry.loss("cross_entropy", f"{home}.losses.cross_entropy:CrossEntropy")
    registry.loss("info_nce", f"{home}.losses.info_nce:InfoNCE", paper="CPC", url="https://arxiv.org/abs/1807.03748")
    registry.loss(
        "similarity_kl",
        f"{home}.losses.similarity_kl:SimilarityKL",
        paper="CLIP-KD",
        url="https://arxiv.org/abs/2307.12732",
    )

    registry.schedule("linear", f"{home}.schedules.linear:LinearSchedule")
    registry.schedule("cosine", f"{home}.schedules.cosine:CosineSchedule", paper="SGDR")

    registry.metric("top_k", f"{home}.metrics.top_k:TopK")
    registry.metric("knn", f"{home}.metrics.knn:NearestNeighbours", paper="Unsupervised Feature Learning via NCE")
    registry.metric("retrieval", f"{home}.metrics.retrieval:Retrieval")
    registry.metric("agreement", f"{home}.metrics.agreement:Agreement")
