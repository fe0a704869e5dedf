"""A program: the merges of a byte-pair encoding, learnt from texts on stdin, each a line of JSON.

Its argument is the number of tokens; it prints the merges as JSON. It imports nothing of this
project, to be quick.
"""

import json
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

if __name__ == "__main__":
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=int(sys.argv[1]),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    learned.train_from_iterator(map(json.loads, sys.stdin), trainer)
    print(json.dumps(json.loads(learned.to_str())["model"]["merges"]))
