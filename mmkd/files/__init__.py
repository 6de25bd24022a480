"""Files that datasets lie in, whatever the modality: tables of text and tar shards.

    for where, entry in entries(Path("captions.csv")): ...       # a CSV or JSONL table, line by line
    samples = WebSamples(Medium("image", "picture", ("jpg", "png"), read_picture), "pets-{000..012}.tar")

`find_shards` gives the files that a pattern names, `open_shard` one of them with its index. Every error is a
`DataError` that names file and line, or shard and file. Nothing is extracted, unpickled or run.
"""

from mmkd.files.patterns import find_shards as find_shards
from mmkd.files.table import Entry as Entry, entries as entries
from mmkd.files.tar_index import Shard as Shard, open_shard as open_shard
from mmkd.files.web_samples import Medium as Medium, WebSamples as WebSamples
