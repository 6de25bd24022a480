"""Files that datasets lie in, whatever the modality: tables of text, and samples in tar shards.

    for where, entry in entries(Path("captions.csv")): ...       # a CSV or JSONL table, line by line
    pets = WebSamples(Medium(field, noun, extensions, read), "pets-{000..012}.tar")

A dataset hands `len`, `[index]`, `order` and `manifest` on to its `WebSamples`, and says in a `Medium` what its files
are. Every error is a `DataError` that names file and line, or shard and file. Nothing is extracted, unpickled or run.
"""

from mmkd.files.table import Entry as Entry, entries as entries
from mmkd.files.web_samples import Medium as Medium, WebSamples as WebSamples
