"""The conformance kit: what a component must be, asked of yours.

    from mmkd.testing import check_plugin
    def test_plugin(): check_plugin("mine")

`check_loss(MyLoss)` and the like ask one component. A failure is a `ConformanceError` that lists every probe that
failed: what is wrong, why it matters, what helps. On the command line: `mmkd check PLUGIN`.

A component that cannot be made without options says how in a class attribute, arguments of its check:
`conformance = {"options": {"model": "tiny"}}`. A kind without a check of its own is checked as an entry.
"""

from mmkd.testing.curator import check_curator as check_curator
from mmkd.testing.dataset import check_dataset as check_dataset
from mmkd.testing.encoder import check_encoder as check_encoder
from mmkd.testing.loss import check_loss as check_loss
from mmkd.testing.metric import check_metric as check_metric
from mmkd.testing.mixer import check_mixer as check_mixer
from mmkd.testing.plugin import check_plugin as check_plugin
from mmkd.testing.probe import ConformanceError as ConformanceError, Failure as Failure
from mmkd.testing.procedure import check_procedure as check_procedure
from mmkd.testing.projector import check_projector as check_projector
from mmkd.testing.samples import samples as samples
from mmkd.testing.schedule import check_schedule as check_schedule
