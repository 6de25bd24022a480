"""Built-in plugin `core`: losses, projectors, schedules, metrics and datasets that know no modality."""

from mmkd import Registry, hookimpl

RECIPES = (
    ("kd", "KD", "1503.02531"),
    ("taid", "TAID", "2501.16937"),
    ("dml", "DML", "1706.00384"),
    ("ctcd", "CTCD", "2311.02849"),
    ("bd_kd", "BD-KD", "2212.12965"),
    ("guidance", "Guidance-Network", "2309.03452"),
    ("mkd", "MKD-OCL", "2309.02870"),
    ("wakd", "WAKD", "2309.11446"),
    ("tgeo_kd", "TGeo-KD", "2312.15112"),
    ("ted", "TED", "2210.01351"),
    ("fitnets", "FitNets", "1412.6550"),
    ("ban", "BAN", "1805.04770"),
    ("dot", "DOT", "2307.08436"),
    ("stable_kd", "StableKD", "2312.13223"),
    ("wcord", "WCoRD", "2012.08674"),
    ("trg", "TRG", "2306.12442"),
    ("understanding_kd", "Understanding-KD", "2002.03532"),
    ("dhkd", "DHKD", "2411.08937"),
    ("rkd", "RKD", "1904.05068"),
    ("luminet", "LumiNet", "2310.03669"),
    ("l2d", "L2D-MLKD", "2308.06453"),
    ("fidelity", "Does-KD-Work", "2106.05945"),
    ("task_agnostic_output", "TaskAgnostic-Compare", "2310.08797"),
    ("task_agnostic_hidden", "TaskAgnostic-Compare", "2310.08797"),
    ("task_agnostic_relations", "TaskAgnostic-Compare", "2310.08797"),
    ("sinkd", "SinKD", "2402.17110"),
    ("e2kd", "e2KD", "2402.03119"),
    ("ofa", "OFA-KD", "2310.19444"),
    ("a2d", "A2D", "2403.01479"),
    ("nd", "ND", "2305.17007"),
    ("crd", "CRD", "1910.10699"),
    ("at", "AT", "1612.03928"),
    ("vid", "VID", "1904.05835"),
    ("review_kd", "ReviewKD", "2104.09044"),
    ("dkd", "DKD", "2203.08679"),
)
"""Packaged recipes: name, paper, and its number on arXiv. They leave networks and data to whoever starts from them."""


@hookimpl
def mmkd_register(registry: Registry) -> None:
    home = "mmkd.library"
    registry.encoder("exported", f"{home}.encoders.exported:Exported")

    registry.projector("linear", f"{home}.projectors.linear:LinearProjector", paper="FitNets")
    registry.projector("mlp", f"{home}.projectors.mlp:MLPProjector")
    registry.projector("concat", f"{home}.projectors.concat:Concatenation")
    registry.projector("conv", f"{home}.projectors.conv:ConvProjector", paper="FitNets")
    registry.projector("branch", f"{home}.projectors.branch:BranchProjector", paper="OFA-KD")

    registry.loss(
        "kl",
        f"{home}.losses.kl:KLDivergence",
        paper="KD",
        url="https://arxiv.org/abs/1503.02531",
    )
    registry.loss("mse", f"{home}.losses.mse:MeanSquaredError", paper="FitNets", url="https://arxiv.org/abs/1412.6550")
    registry.loss("cosine", f"{home}.losses.cosine:CosineDistance")
    registry.loss("cross_entropy", f"{home}.losses.cross_entropy:CrossEntropy")
    registry.loss("binary_cross_entropy", f"{home}.losses.binary_cross_entropy:BinaryCrossEntropy")
    registry.loss("info_nce", f"{home}.losses.info_nce:InfoNCE", paper="CPC", url="https://arxiv.org/abs/1807.03748")
    registry.loss(
        "similarity_kl",
        f"{home}.losses.similarity_kl:SimilarityKL",
        paper="CLIP-KD",
        url="https://arxiv.org/abs/2307.12732",
    )

    registry.loss(
        "rkd_distance", f"{home}.losses.rkd:RelationalDistance", paper="RKD", url="https://arxiv.org/abs/1904.05068"
    )
    registry.loss(
        "rkd_angle", f"{home}.losses.rkd:RelationalAngle", paper="RKD", url="https://arxiv.org/abs/1904.05068"
    )
    registry.loss(
        "similarity_preserving",
        f"{home}.losses.similarity_preserving:SimilarityPreserving",
        paper="SP",
        url="https://arxiv.org/abs/1907.09682",
    )
    registry.loss(
        "correlation_congruence",
        f"{home}.losses.correlation_congruence:CorrelationCongruence",
        paper="CC",
        url="https://arxiv.org/abs/1904.01802",
    )
    registry.loss(
        "pkt", f"{home}.losses.pkt:ProbabilisticTransfer", paper="PKT", url="https://arxiv.org/abs/1803.10837"
    )
    registry.loss("nst", f"{home}.losses.nst:NeuronSelectivity", paper="NST", url="https://arxiv.org/abs/1707.01219")
    registry.loss(
        "crd", f"{home}.losses.crd:ContrastiveRepresentation", paper="CRD", url="https://arxiv.org/abs/1910.10699"
    )
    registry.loss(
        "wcord_local", f"{home}.losses.wcord:WassersteinLocal", paper="WCoRD", url="https://arxiv.org/abs/2012.08674"
    )
    registry.loss(
        "wcord_global", f"{home}.losses.wcord:WassersteinGlobal", paper="WCoRD", url="https://arxiv.org/abs/2012.08674"
    )
    registry.loss(
        "ickd", f"{home}.losses.ickd:InterChannelCorrelation", paper="ICKD", url="https://arxiv.org/abs/2202.03680"
    )
    registry.loss("trg_inner", f"{home}.losses.trg:TokenContext", paper="TRG", url="https://arxiv.org/abs/2306.12442")
    registry.loss(
        "trg_local", f"{home}.losses.trg:TokenNeighbours", paper="TRG", url="https://arxiv.org/abs/2306.12442"
    )
    registry.loss("trg_global", f"{home}.losses.trg:TokenGraph", paper="TRG", url="https://arxiv.org/abs/2306.12442")
    registry.loss(
        "minilm",
        f"{home}.losses.minilm:RelationTransfer",
        paper="MiniLMv2, TaskAgnostic-Compare",
        url="https://arxiv.org/abs/2012.15828",
    )
    registry.loss(
        "hidden_states",
        f"{home}.losses.hidden_states:HiddenStates",
        paper="TaskAgnostic-Compare",
        url="https://arxiv.org/abs/2310.08797",
    )
    registry.loss(
        "contrastive_gradient",
        f"{home}.losses.contrastive_gradient:ContrastiveGradient",
        paper="CLIP-KD",
        url="https://arxiv.org/abs/2307.12732",
    )
    registry.loss(
        "reverse_kl",
        f"{home}.losses.divergences:ReverseKL",
        paper="MiniLLM",
        url="https://arxiv.org/abs/2306.08543",
    )
    registry.loss(
        "jsd",
        f"{home}.losses.divergences:JensenShannon",
        paper="GKD",
        url="https://arxiv.org/abs/2306.13649",
    )
    registry.loss(
        "skew_kl",
        f"{home}.losses.divergences:SkewKL",
        paper="DistiLLM",
        url="https://arxiv.org/abs/2402.03898",
    )
    registry.loss(
        "balanced_kl",
        f"{home}.losses.balanced_kl:BalancedKL",
        paper="BD-KD",
        url="https://arxiv.org/abs/2212.12965",
    )
    registry.loss("dkd", f"{home}.losses.decoupled:DecoupledKL", paper="DKD", url="https://arxiv.org/abs/2203.08679")
    registry.loss("dist", f"{home}.losses.dist:PearsonDistance", paper="DIST", url="https://arxiv.org/abs/2205.10536")
    registry.loss(
        "luminet",
        f"{home}.losses.luminet:PerceptionKL",
        paper="LumiNet",
        url="https://arxiv.org/abs/2310.03669",
    )
    registry.loss(
        "binary_kl",
        f"{home}.losses.binary_kl:BinaryKL",
        paper="DHKD, L2D-MLKD",
        url="https://arxiv.org/abs/2411.08937",
    )
    registry.loss(
        "label_embedding",
        f"{home}.losses.label_embedding:LabelEmbeddingDistance",
        paper="L2D-MLKD",
        url="https://arxiv.org/abs/2308.06453",
    )
    registry.loss("ofa", f"{home}.losses.ofa:TargetEnhancedKL", paper="OFA-KD", url="https://arxiv.org/abs/2310.19444")
    registry.loss(
        "nd",
        f"{home}.losses.norm_direction:NormDirection",
        paper="ND",
        url="https://arxiv.org/abs/2305.17007",
    )
    registry.loss(
        "confidence_kl",
        f"{home}.losses.partial_teacher:ConfidenceKL",
        paper="Understanding-KD",
        url="https://arxiv.org/abs/2002.03532",
    )
    registry.loss(
        "class_similarity_kl",
        f"{home}.losses.partial_teacher:ClassSimilarityKL",
        paper="Understanding-KD",
        url="https://arxiv.org/abs/2002.03532",
    )
    registry.loss(
        "virtual_teacher",
        f"{home}.losses.virtual_teacher:VirtualTeacherKL",
        paper="Tf-KD",
        url="https://arxiv.org/abs/1909.11723",
    )
    registry.loss(
        "cwtm",
        f"{home}.losses.born_again:ConfidenceWeightedCrossEntropy",
        paper="BAN",
        url="https://arxiv.org/abs/1805.04770",
    )
    registry.loss("dkpp", f"{home}.losses.born_again:PermutedKL", paper="BAN", url="https://arxiv.org/abs/1805.04770")
    registry.loss("sinkd", f"{home}.losses.sinkd:SinkhornKD", paper="SinKD", url="https://arxiv.org/abs/2402.17110")
    registry.loss(
        "linear_divergence",
        f"{home}.losses.linear_divergence:LinearDivergence",
        paper="Liger Kernel",
        url="https://arxiv.org/abs/2410.10989",
    )
    registry.loss("uld", f"{home}.losses.uld:SortedDistance", paper="ULD", url="https://arxiv.org/abs/2402.12030")
    registry.loss(
        "soft_cross_entropy",
        f"{home}.losses.soft_cross_entropy:SoftCrossEntropy",
        paper="mixup",
        url="https://arxiv.org/abs/1710.09412",
    )
    registry.loss(
        "at", f"{home}.losses.attention_transfer:AttentionTransfer", paper="AT", url="https://arxiv.org/abs/1612.03928"
    )
    registry.loss(
        "vid", f"{home}.losses.vid:VariationalInformation", paper="VID", url="https://arxiv.org/abs/1904.05835"
    )
    registry.loss(
        "fsp",
        f"{home}.losses.fsp:SolutionFlow",
        paper="FSP",
        url="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
    )
    registry.loss(
        "ft", f"{home}.losses.factor_transfer:FactorTransfer", paper="FT", url="https://arxiv.org/abs/1802.04977"
    )
    registry.loss(
        "ab", f"{home}.losses.activation:ActivationBoundary", paper="AB", url="https://arxiv.org/abs/1811.03233"
    )
    registry.loss("ofd", f"{home}.losses.activation:MarginL2", paper="OFD", url="https://arxiv.org/abs/1904.01866")
    registry.loss(
        "hcl", f"{home}.losses.review:HierarchicalContext", paper="ReviewKD", url="https://arxiv.org/abs/2104.09044"
    )
    registry.loss(
        "review", f"{home}.losses.review:KnowledgeReview", paper="ReviewKD", url="https://arxiv.org/abs/2104.09044"
    )
    registry.loss("cwd", f"{home}.losses.cwd:ChannelwiseKL", paper="CWD", url="https://arxiv.org/abs/2011.13256")
    registry.loss("mgd", f"{home}.losses.mgd:MaskedGeneration", paper="MGD", url="https://arxiv.org/abs/2205.01529")
    registry.loss(
        "patient", f"{home}.losses.patient:PatientStates", paper="PKD", url="https://arxiv.org/abs/1908.09355"
    )
    registry.loss(
        "pearson_map",
        f"{home}.losses.pearson_map:PearsonMap",
        paper="PKD (detection)",
        url="https://arxiv.org/abs/2207.02039",
    )
    registry.loss(
        "attention_kl", f"{home}.losses.attention:AttentionKL", paper="MiniLM", url="https://arxiv.org/abs/2002.10957"
    )
    registry.loss(
        "cross_attention",
        f"{home}.losses.attention:CrossAttentionKL",
        paper="DiDE",
        url="https://arxiv.org/abs/2112.08723",
    )
    registry.loss(
        "a2d", f"{home}.losses.attention:AttentionAlignment", paper="A2D", url="https://arxiv.org/abs/2403.01479"
    )
    registry.loss(
        "e2kd", f"{home}.losses.explanation:ExplanationMatch", paper="e2KD", url="https://arxiv.org/abs/2402.03119"
    )
    registry.loss(
        "e2kd_given",
        f"{home}.losses.explanation:GivenExplanation",
        paper="e2KD",
        url="https://arxiv.org/abs/2402.03119",
    )
    registry.loss(
        "hard_label", f"{home}.losses.hard_label:HardLabel", paper="DeiT", url="https://arxiv.org/abs/2012.12877"
    )

    registry.mixer(
        "mean",
        f"{home}.mixers.mean:MeanOfTeachers",
        paper="KD",
        url="https://arxiv.org/abs/1503.02531",
    )
    registry.mixer(
        "label_mix",
        f"{home}.mixers.label_mix:LabelMix",
        paper="SelfDistill-KRR",
        url="https://arxiv.org/abs/2102.13088",
    )
    registry.mixer(
        "taid", f"{home}.mixers.taid:TemporalInterpolation", paper="TAID", url="https://arxiv.org/abs/2501.16937"
    )
    registry.mixer("gate", f"{home}.mixers.gate:Gate", paper="Adaptive Mixtures of Local Experts")

    registry.encoder(
        "kernel_machine",
        f"{home}.encoders.kernel_machine:KernelMachine",
        paper="SelfDistill-KRR",
        url="https://arxiv.org/abs/2102.13088",
    )
    registry.procedure(
        "kernel_ridge",
        f"{home}.procedures.kernel_ridge:KernelRidge",
        paper="SelfDistill-KRR",
        url="https://arxiv.org/abs/2102.13088",
    )
    registry.recipe("krr", f"{home}:recipes/krr.yaml", paper="SelfDistill-KRR", url="https://arxiv.org/abs/2102.13088")

    registry.schedule("linear", f"{home}.schedules.linear:LinearSchedule")
    registry.schedule("cosine", f"{home}.schedules.cosine:CosineSchedule", paper="SGDR")
    registry.schedule(
        "geometry",
        f"{home}.schedules.geometry:GeometrySchedule",
        paper="TGeo-KD",
        url="https://arxiv.org/abs/2312.15112",
    )

    registry.metric("top_k", f"{home}.metrics.top_k:TopK")
    registry.metric("knn", f"{home}.metrics.knn:NearestNeighbours", paper="Unsupervised Feature Learning via NCE")
    registry.metric("linear_probe", f"{home}.metrics.linear_probe:LinearProbe")
    registry.metric("retrieval", f"{home}.metrics.retrieval:Retrieval")
    registry.metric(
        "agreement",
        f"{home}.metrics.agreement:Agreement",
        paper="Does-KD-Work",
        url="https://arxiv.org/abs/2106.05945",
    )
    registry.metric(
        "calibration",
        f"{home}.metrics.calibration:Calibration",
        paper="On Calibration of Modern Neural Networks",
        url="https://arxiv.org/abs/1706.04599",
    )
    registry.metric(
        "gradient_rescaling",
        f"{home}.metrics.gradient_rescaling:GradientRescaling",
        paper="Understanding-KD",
        url="https://arxiv.org/abs/2002.03532",
    )
    registry.metric(
        "cka",
        f"{home}.metrics.cka:CKA",
        paper="CKA, OFA-KD",
        url="https://arxiv.org/abs/2010.15327",
    )
    registry.metric("effective_rank", f"{home}.metrics.effective_rank:EffectiveRank", paper="The Effective Rank")

    registry.dataset("hf_dataset", f"{home}.datasets.hugging_face:HuggingFaceDataset", needs=("datasets",))

    registry.procedure(
        "stages", f"{home}.procedures.stages:Stages", paper="FitNets", url="https://arxiv.org/abs/1412.6550"
    )
    registry.procedure(
        "generations", f"{home}.procedures.generations:Generations", paper="BAN", url="https://arxiv.org/abs/1805.04770"
    )

    registry.procedure(
        "blocks", f"{home}.procedures.blocks:Blocks", paper="StableKD", url="https://arxiv.org/abs/2312.13223"
    )
    registry.procedure("dot", f"{home}.procedures.dot:TwoMomenta", paper="DOT", url="https://arxiv.org/abs/2307.08436")

    for name, paper, url in RECIPES:
        registry.recipe(name, f"{home}:recipes/{name}.yaml", paper=paper, url=f"https://arxiv.org/abs/{url}")
